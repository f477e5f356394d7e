//! Loop devices and mounted file systems for tests. Where the machine does not allow them (no root, no loop devices, a
//! missing mkfs), the test says so and does nothing.

use std::path::Path;
use std::process::Command;

/// Runs a command; on failure says why the test is skipped.
fn run(program: &str, args: &[&str]) -> Option<String> {
    match Command::new(program).args(args).output() {
        Ok(output) if output.status.success() => Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Ok(output) => {
            println!("skipped: {program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
            None
        }
        Err(error) => {
            println!("skipped: {program}: {error}");
            None
        }
    }
}

/// A loop device over a file of its own.
pub struct LoopDevice {
    /// Its name in `/dev`.
    pub name: String,
    _dir: tempfile::TempDir,
}

impl LoopDevice {
    /// A device of `len` bytes with sectors of `sector` bytes, filled with the byte `fill`.
    pub fn new(len: usize, sector: u32, fill: u8, read_only: bool) -> Option<LoopDevice> {
        let dir = tempfile::tempdir().ok()?;
        let file = dir.path().join("disk");
        std::fs::write(&file, vec![fill; len]).ok()?;
        let sector = sector.to_string();
        let mut args = vec!["--find", "--show", "--sector-size", &sector];
        if read_only {
            args.push("--read-only");
        }
        args.push(file.to_str()?);
        let name = run("losetup", &args)?;
        Some(LoopDevice { name, _dir: dir })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        run("losetup", &["--detach", &self.name]);
    }
}

/// A mounted file system.
pub struct Mount {
    dir: tempfile::TempDir,
    image: Option<tempfile::TempDir>,
}

impl Mount {
    /// A new file system of a kind ("xfs", "btrfs", "ext4") in a file of `len` bytes.
    pub fn new(kind: &str, len: u64) -> Option<Mount> {
        let image = tempfile::tempdir().ok()?;
        let file = image.path().join("image");
        std::fs::File::create(&file).ok()?.set_len(len).ok()?;
        run(&format!("mkfs.{kind}"), &["-q", file.to_str()?])?;
        let dir = tempfile::tempdir().ok()?;
        run("mount", &["-o", "loop", "-t", kind, file.to_str()?, dir.path().to_str()?])?;
        Some(Mount { dir, image: Some(image) })
    }

    /// A file system in memory that holds `len` bytes.
    pub fn tmpfs(len: u64) -> Option<Mount> {
        let dir = tempfile::tempdir().ok()?;
        let size = format!("size={len}");
        run("mount", &["-t", "tmpfs", "-o", &size, "none", dir.path().to_str()?])?;
        Some(Mount { dir, image: None })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(path) = self.dir.path().to_str() {
            // A process that another test is just starting holds copies of our descriptors for a moment.
            let unmounted = (0..40).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(25));
                Command::new("umount").arg(path).output().is_ok_and(|output| output.status.success())
            });
            if !unmounted {
                run("umount", &["--lazy", path]);
            }
        }
        drop(self.image.take());
    }
}
