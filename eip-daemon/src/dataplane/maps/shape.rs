//! What every pinned map has to look like, and whether a pin that is already there does.
//!
//! aya takes whatever is pinned under a map's name, and quietly works on a map of its own when the
//! pin cannot be opened. Both would run programs on state nobody sees, so pins are judged before
//! anything is loaded.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use aya::maps::{MapError, MapInfo};
use aya_obj::{Object, ParseError};
use eip_common::abi::map;

use super::pin_path;
use crate::dataplane::options::DataPlaneOptions;

/// What makes two maps interchangeable, and their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// `bpf_map_type`.
    pub(crate) map_type: u32,
    /// Bytes.
    pub(crate) key_size: u32,
    /// Bytes.
    pub(crate) value_size: u32,
    /// Creation flags.
    pub(crate) flags: u32,
    /// Entries.
    pub(crate) max_entries: u32,
}

/// A pin that this version cannot use.
#[derive(Debug, thiserror::Error)]
pub enum PinProblem {
    /// Something else than such a map is pinned.
    #[error("it is not the map this version uses: it has {found}, expected {expected}")]
    OtherShape {
        /// What is pinned.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// It is no map, or may not be opened.
    #[error("it cannot be opened as a map")]
    Unreadable(#[source] MapError),
}

/// A pin that was judged.
#[derive(Debug)]
pub(crate) struct BadPin {
    /// Where.
    pub(crate) path: PathBuf,
    /// What is wrong.
    pub(crate) problem: PinProblem,
}

/// What was found pinned already.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    /// For people: sizes kept although another one is configured, maps of older versions.
    pub(crate) notices: Vec<String>,
}

/// The shapes of all maps as the compiled programs declare them, with the configured sizes.
pub(crate) fn shapes(
    object: &[u8],
    options: &DataPlaneOptions,
) -> Result<BTreeMap<&'static str, Shape>, ParseError> {
    let object = Object::parse(object)?;
    let declared = map::ALL
        .into_iter()
        .filter_map(|name| Some((name, object.maps.get(name)?)));
    Ok(declared
        .map(|(name, declared)| {
            let shape = Shape {
                map_type: declared.map_type(),
                key_size: declared.key_size(),
                value_size: declared.value_size(),
                flags: declared.map_flags(),
                max_entries: configured_size(name, options).unwrap_or(declared.max_entries()),
            };
            (name, shape)
        })
        .collect())
}

/// Judges the pins of a directory. One bad pin refuses them all; nothing is changed.
pub(crate) fn check_pins(
    directory: &Path,
    shapes: &BTreeMap<&'static str, Shape>,
) -> Result<Pins, BadPin> {
    let mut pins = Pins::default();
    for (name, wanted) in shapes {
        let path = pin_path(directory, name);
        let found = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            _ => read_shape(&path).map_err(|problem| BadPin {
                path: path.clone(),
                problem,
            })?,
        };
        if !is_interchangeable(found, *wanted) {
            let problem = PinProblem::OtherShape {
                found: describe(found),
                expected: describe(*wanted),
            };
            return Err(BadPin { path, problem });
        }
        if found.max_entries != wanted.max_entries {
            pins.notices.push(format!(
                "map {name} keeps its {} entries, {} are configured: the new size takes effect \
                 after `eip-daemon cleanup` and a restart",
                found.max_entries, wanted.max_entries
            ));
        }
    }
    pins.notices.extend(other_versions(directory));
    Ok(pins)
}

/// Entries of a map that the operator sizes. Both families count into one traffic map.
fn configured_size(name: &str, options: &DataPlaneOptions) -> Option<u32> {
    match name {
        map::EIP4 | map::EIP6 | map::VM4 | map::VM6 => Some(options.max_bindings),
        map::TRAFFIC | map::LEASES => Some(options.max_bindings.saturating_mul(2)),
        map::FLOW4 | map::FLOW6 => Some(options.max_flows),
        _ => None,
    }
}

fn read_shape(path: &Path) -> Result<Shape, PinProblem> {
    let info = MapInfo::from_pin(path).map_err(PinProblem::Unreadable)?;
    let map_type = info.map_type().map_err(PinProblem::Unreadable)?;
    Ok(Shape {
        map_type: map_type as u32,
        key_size: info.key_size(),
        value_size: info.value_size(),
        flags: info.map_flags(),
        max_entries: info.max_entries(),
    })
}

const fn is_interchangeable(found: Shape, wanted: Shape) -> bool {
    found.map_type == wanted.map_type
        && found.key_size == wanted.key_size
        && found.value_size == wanted.value_size
        && found.flags == wanted.flags
}

fn describe(shape: Shape) -> String {
    let Shape {
        map_type,
        key_size,
        value_size,
        flags,
        ..
    } = shape;
    format!("type {map_type}, keys of {key_size} bytes, values of {value_size}, flags {flags:#x}")
}

/// Maps of ours that another version pinned: the name without its version is one of ours.
fn other_versions(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| !map::ALL.contains(&name.as_str()) && is_versioned_name_of_ours(name))
        .map(|name| {
            format!("map {name} was left by another version; `eip-daemon cleanup` removes it")
        })
        .collect()
}

fn is_versioned_name_of_ours(name: &str) -> bool {
    fn base(name: &str) -> Option<&str> {
        let (base, version) = name.rsplit_once("_V")?;
        version
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then_some(base)
    }
    base(name).is_some_and(|wanted| {
        map::ALL
            .into_iter()
            .filter_map(base)
            .any(|ours| ours == wanted)
    })
}

#[cfg(test)]
mod tests {
    use eip_common::abi::map;

    use super::{DataPlaneOptions, is_interchangeable, is_versioned_name_of_ours, shapes};

    #[test]
    fn every_map_of_the_abi_is_in_the_compiled_programs() {
        let options = DataPlaneOptions {
            max_bindings: 100,
            ..DataPlaneOptions::default()
        };
        let shapes = shapes(crate::EBPF_OBJECT, &options).unwrap();
        for name in map::ALL {
            assert!(shapes.contains_key(name), "{name}");
        }
        assert_eq!(shapes[map::EIP4].max_entries, 100);
        assert_eq!(shapes[map::TRAFFIC].max_entries, 200);
    }

    #[test]
    fn another_size_is_interchangeable_and_another_layout_is_not() {
        let shapes = shapes(crate::EBPF_OBJECT, &DataPlaneOptions::default()).unwrap();
        let wanted = shapes[map::EIP4];
        let mut found = wanted;
        found.max_entries += 1;
        assert!(is_interchangeable(found, wanted));
        found.value_size += 4;
        assert!(!is_interchangeable(found, wanted));
        assert!(!is_interchangeable(shapes[map::FLOW4], wanted));
    }

    #[test]
    fn maps_of_other_versions_are_recognised_by_name() {
        assert!(is_versioned_name_of_ours("EIP4_V2"));
        assert!(is_versioned_name_of_ours("EIP_REASONS_V12"));
        for foreign in ["EIP4", "EIP4_Vx", "OTHER_V1", "cilium_lxc"] {
            assert!(!is_versioned_name_of_ours(foreign), "{foreign}");
        }
    }
}
