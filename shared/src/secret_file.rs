//! Files of this computer that hold a secret: keyring, session key, OAuth client, a
//! person's own credential.

use std::fs::File;
use std::io;
use std::path::Path;

/// Opens a file that holds a secret, unless its mode lets others at it. Where it is a link,
/// as secrets that Kubernetes mounts are, the file that it leads to is judged.
///
/// | mode | is |
/// |---|---|
/// | writable by everybody | refused: whoever changed the file chose the secret |
/// | readable by everybody, owned by who runs this, on a mount that can be written | refused: `chmod 600` is theirs to do |
/// | readable by everybody, on a read-only mount | taken: secrets of Kubernetes are 0644 there, in a container of their own |
/// | readable by everybody, otherwise | taken with a warning |
///
/// # Errors
/// Those of [`File::open`], and [`io::ErrorKind::PermissionDenied`] with what to do for a refusal.
pub fn open_secret(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    #[cfg(unix)]
    look(&file, path)?;
    Ok(file)
}

/// Makes a file that only its owner may read and write (mode 0600).
///
/// # Errors
/// As [`File::create_new`]: an existing file is left as it is.
pub fn create_secret(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.write(true).create_new(true).open(path)
}

#[cfg(unix)]
fn look(file: &File, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;

    use rustix::fs::StatVfsMountFlags;

    let metadata = file.metadata()?;
    if !metadata.is_file() {
        // A pipe of a shell, say, whose other end is a program that is named beside it.
        return Ok(());
    }
    let place = Place {
        ours: metadata.uid() == rustix::process::geteuid().as_raw(),
        read_only: rustix::fs::fstatvfs(file)
            .is_ok_and(|at| at.f_flag.contains(StatVfsMountFlags::RDONLY)),
    };
    match judge(metadata.mode() & 0o7777, &place) {
        Judgement::Taken => Ok(()),
        Judgement::TakenWith(warning) => {
            tracing::warn!("{}: {warning}", path.display());
            Ok(())
        }
        Judgement::Refused(why) => Err(io::Error::new(io::ErrorKind::PermissionDenied, why)),
    }
}

/// Where a file lies.
#[cfg(unix)]
struct Place {
    ours: bool,
    read_only: bool,
}

#[cfg(unix)]
#[derive(Debug, PartialEq)]
enum Judgement {
    Taken,
    TakenWith(String),
    Refused(String),
}

#[cfg(unix)]
fn judge(mode: u32, place: &Place) -> Judgement {
    let everybody = "every user of this computer can";
    if mode & 0o002 != 0 {
        return Judgement::Refused(format!(
            "{everybody} change it (mode {mode:04o}); make sure that it is yours, then run `chmod 600` on it"
        ));
    }
    if mode & 0o004 == 0 || place.read_only {
        return Judgement::Taken;
    }
    let told = format!("{everybody} read it (mode {mode:04o})");
    if place.ours {
        return Judgement::Refused(format!("{told}; run `chmod 600` on it"));
    }
    Judgement::TakenWith(format!("{told}; have its owner run `chmod 600` on it"))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_others_can_read_or_change_is_judged_by_where_it_lies() {
        let place = |ours, read_only| Place { ours, read_only };
        for (ours, read_only) in [(false, false), (false, true), (true, false), (true, true)] {
            for mode in [0o600, 0o400, 0o640, 0o660, 0o700] {
                assert_eq!(judge(mode, &place(ours, read_only)), Judgement::Taken, "{mode:o}");
            }
            for mode in [0o602, 0o622, 0o606, 0o666, 0o777] {
                let Judgement::Refused(why) = judge(mode, &place(ours, read_only)) else {
                    panic!("{mode:o} with {ours} and {read_only}")
                };
                assert!(why.contains("can change it") && why.contains(&format!("0{mode:o}")));
            }
        }
        for mode in [0o604, 0o644, 0o664, 0o755] {
            assert_eq!(judge(mode, &place(true, true)), Judgement::Taken, "Kubernetes");
            assert_eq!(judge(mode, &place(false, true)), Judgement::Taken, "Kubernetes");
            let refused = judge(mode, &place(true, false));
            assert!(matches!(&refused, Judgement::Refused(why) if why.contains("chmod 600")));
            let warned = judge(mode, &place(false, false));
            assert!(matches!(&warned, Judgement::TakenWith(why) if why.contains("its owner")));
        }
    }

    #[test]
    fn the_file_that_a_link_leads_to_is_judged() {
        let folder = std::env::temp_dir().join(format!("fleet-secret-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let (file, link) = (folder.join("secret"), folder.join("link"));
        std::fs::write(&file, "fake").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for (mode, taken) in [(0o600, true), (0o644, false), (0o666, false)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            for path in [&file, &link] {
                assert_eq!(open_secret(path).is_ok(), taken, "{mode:o}");
            }
        }
        std::fs::remove_dir_all(&folder).unwrap();
        // Neither is a pipe or a device.
        assert!(open_secret(Path::new("/dev/null")).is_ok());
    }
}
