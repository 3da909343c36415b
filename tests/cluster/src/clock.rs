//! A wall clock that can be set for some programs alone: libfaketime answers for `CLOCK_REALTIME`, and leaves
//! the clocks alone that nobody can set.

use std::{
    env::consts::ARCH,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::ensure;

/// The clock.
#[derive(Debug)]
pub(crate) struct Clock {
    /// How far it is from the real one.
    pub(crate) file: PathBuf,
    library: PathBuf,
}

impl Clock {
    pub(crate) fn new(file: PathBuf) -> anyhow::Result<Self> {
        let library = format!("/usr/lib/{ARCH}-linux-gnu/faketime/libfaketime.so.1");
        ensure!(
            Path::new(&library).exists(),
            "there is no {library}: install the package libfaketime"
        );
        let library = library.into();
        Ok(Self { file, library })
    }

    /// What a program has to be started with.
    pub(crate) fn environment(&self) -> [(&'static str, OsString); 6] {
        let yes = || OsString::from("1");
        [
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.clone().into()),
            ("FAKETIME_CACHE_DURATION", yes()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", yes()),
            ("FAKETIME_DISABLE_SHM", yes()),
            ("NO_FAKE_STAT", yes()),
        ]
    }
}
