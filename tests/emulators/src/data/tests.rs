//! What a folder keeps, and which folders are refused.

use std::error::Error as _;

use tempfile::tempdir;

use super::*;

fn put(key: &str, value: &'static str) -> Change {
    Change::Put(key.to_owned(), Bytes::from(value))
}

#[tokio::test]
async fn records_are_there_again_when_they_were_said_to_be_kept() {
    let folder = tempdir().unwrap();
    let data = Data::open(folder.path()).unwrap();
    let journal = data.journal();
    journal.append(vec![put("a/1", "x"), put("a/2", "y"), put("ab/1", "other")]);
    journal.append(vec![Change::Delete("a/1".to_owned()), put("b/1", "gone"), put("b/2", "gone")]);
    journal.append(vec![Change::DeleteUnder("b/".to_owned()), put("b/3", "late")]);
    journal.kept().await.unwrap();
    // Nothing of this is in memory: a killed process drops nothing.
    let seen = |data: &Data| (data.read("a/").unwrap(), data.read("b/").unwrap());
    let before = seen(&data);
    assert_eq!(before.0, [("2".to_owned(), Bytes::from("y"))]);
    assert_eq!(before.1, [("3".to_owned(), Bytes::from("late"))]);
    drop(data);
    assert_eq!(seen(&Data::open(folder.path()).unwrap()), before);
    // What comes after the end is not said to be kept.
    journal.append(vec![put("c", "lost")]);
    assert!(journal.kept().await.is_err());
}

#[test]
fn one_process_has_a_folder_and_nobody_else_reads_it() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempdir().unwrap();
    let folder = folder.path().join("made");
    let data = Data::open(&folder).unwrap();
    let second = Data::open(&folder).unwrap_err();
    assert!(matches!(second, DataError::InUse(_)), "{second}");
    for (path, mode) in [(folder.clone(), 0o700), (folder.join(FILE), 0o600)] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{path:?}");
    }
    drop(data);
    Data::open(&folder).unwrap();
}

#[test]
fn other_folders_are_refused_and_stay_as_they_are() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("thesis.txt"), "x").unwrap();
    let refused = Data::open(folder.path()).unwrap_err();
    assert!(matches!(refused, DataError::Foreign(_)), "{refused}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    fs::write(folder.path().join(FILE), "no database").unwrap();
    let refused = Data::open(folder.path()).unwrap_err();
    assert!(matches!(refused, DataError::Unreadable { .. }) && refused.source().is_some());
    assert_eq!(fs::read(folder.path().join(FILE)).unwrap(), b"no database");
}

#[test]
fn another_format_is_refused_and_not_misread() {
    let folder = tempdir().unwrap();
    drop(Data::open(folder.path()).unwrap());
    let database = Database::open(folder.path().join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(ABOUT).unwrap().insert(FORMAT_KEY, FORMAT + 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let refused = Data::open(folder.path()).unwrap_err().to_string();
    assert!(refused.contains("another version") && refused.contains('2'), "{refused}");
}

/// A process that is killed while it makes its file leaves a folder that can be used.
#[test]
fn a_file_that_was_not_completed_is_begun_anew() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join(NEW_FILE), [0; 5_000]).unwrap();
    Data::open(folder.path()).unwrap();
    assert!(!folder.path().join(NEW_FILE).exists());
}

/// What cannot be written is an error for everybody from then on.
#[tokio::test]
async fn a_failed_commit_is_told_to_those_who_wait() {
    let journal = Arc::new(Journal::default());
    journal.append(vec![put("a", "x")]);
    let writer = Arc::clone(&journal);
    let writer = thread::spawn(move || writer.drain(|_| Err("the disk is full")));
    let told = journal.kept().await.unwrap_err().to_string();
    assert!(told.contains("the disk is full"), "{told}");
    assert_eq!(journal.failed().await, "the disk is full");
    writer.join().unwrap();
}
