//! `cargo xtask image`: static programs and a container image of nothing else, without a daemon.

use std::{
    env::consts,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt,
    command::{Line, cargo, find_program, workspace_root},
    needs::{self, User},
};

/// Builds the container image of deploy/Dockerfile: an OCI archive in `target/image.tar`.
///
/// The programs are linked statically, so the image has nothing but them. buildah makes it, as root and
/// without a daemon; `--programs` stops before that, with everything the Dockerfile needs in
/// `target/image`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the image.
    #[arg(long, default_value = "localhost/kube-eip:latest")]
    tag: String,
    /// Only the programs.
    #[arg(long)]
    programs: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    needs::require(&[User::Build])?;
    let context = programs()?;
    if args.programs {
        println!("{}", context.display());
        return Ok(());
    }
    if find_program("buildah").is_none() {
        apt::install(&["buildah"], "it makes the image without a daemon, 15 s")?;
    }
    let root = workspace_root();
    let archive = root.join("target/image.tar");
    if archive.exists() {
        fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))?;
    }
    let store = root.join("target/image-store");
    buildah(&store)
        .args([
            "build",
            "--isolation",
            "chroot",
            "--tag",
            &args.tag,
            "--file",
        ])
        .arg(root.join("deploy/Dockerfile"))
        .arg(&context)
        .run()?;
    buildah(&store)
        .args(["push", &args.tag])
        .arg(format!("oci-archive:{}:{}", archive.display(), args.tag))
        .run()?;
    println!("{}: {}", args.tag, archive.display());
    Ok(())
}

/// buildah with a store of our own: nothing of the machine's containers is touched.
fn buildah(store: &Path) -> Line {
    let place = |name: &str| store.join(name).display().to_string();
    Line::new("buildah")
        .args(["--storage-driver", "vfs", "--root", &place("root")])
        .args(["--runroot", &place("run")])
}

/// Builds both programs statically; returns the directory they are in, alone.
fn programs() -> Result<PathBuf> {
    let target = match consts::ARCH {
        "x86_64" => "x86_64-unknown-linux-gnu",
        "aarch64" => "aarch64-unknown-linux-gnu",
        other => bail!("no image is made for {other}"),
    };
    eprintln!("building for release, statically: ten minutes the first time");
    cargo("build")
        .args(["--release", "--package", "eip-daemon", "--bins"])
        // Named even where it is the host's own: what runs while building is linked as usual then.
        .args(["--target", target])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .run()?;
    let root = workspace_root();
    let context = root.join("target/image");
    fs::create_dir_all(&context).with_context(|| format!("create {}", context.display()))?;
    for program in ["eip-daemon", "eipctl"] {
        let built = root
            .join("target")
            .join(target)
            .join("release")
            .join(program);
        let kept = context.join(program);
        Line::new("strip").arg("-o").arg(&kept).arg(&built).run()?;
    }
    Ok(context)
}
