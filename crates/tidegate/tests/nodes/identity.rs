//! The key file of a node.

use tidegate::{Identity, IdentityError};

use super::application::{By, NETWORK, Notes, accept_all};

#[test]
fn a_key_file_is_its_owners_alone_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.key");
    let first = Identity::load_or_create(&path).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }
    assert_eq!(Identity::load_or_create(&path).unwrap().peer_id(), first.peer_id());
    assert_eq!(Identity::load(&path).unwrap().peer_id(), first.peer_id());
}

#[tokio::test]
async fn a_node_keeps_its_name_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.key");
    let by = By::memory();
    let mut names = Vec::new();
    for _ in 0..2 {
        let identity = Identity::load_or_create(&path).unwrap();
        let builder = tidegate::Builder::new(NETWORK, Notes, accept_all);
        let (node, _events) = by.connect(builder, identity).start().unwrap();
        assert!(node.addresses()[0].to_string().ends_with(&format!("/p2p/{}", node.peer_id())));
        names.push(node.peer_id());
        node.shutdown().await;
    }
    assert_eq!(names[0], names[1]);
}

#[test]
fn invalid_key_files_are_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.key");
    let key = "ab".repeat(32);
    let garbage = [
        Vec::new(),
        b"nonsense".to_vec(),
        key.as_bytes()[..63].to_vec(),
        format!("{key}00").into_bytes(),
        format!("{key}\n{key}\n").into_bytes(),
        vec![0xff; 64],
    ];
    for content in garbage {
        let _ = std::fs::remove_file(&path);
        write_privately(&path, &content);
        for result in [Identity::load(&path), Identity::load_or_create(&path)] {
            let error = result.expect_err("that is no key");
            assert!(matches!(error, IdentityError::NotAKey { .. }), "{content:?}: {error}");
            let expected =
                format!("{}: not a key file: it should hold 64 hex digits", path.display());
            assert_eq!(error.to_string(), expected);
        }
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
}

#[test]
fn a_missing_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none").join("node.key");
    let error = Identity::load_or_create(&path).unwrap_err();
    assert!(error.to_string().starts_with(&format!("{}: ", path.display())), "{error}");
    // A folder is no key file either.
    let error = Identity::load(folder.path()).unwrap_err();
    assert!(error.to_string().starts_with(&folder.path().display().to_string()), "{error}");
}

fn write_privately(path: &std::path::Path, content: &[u8]) {
    std::fs::write(path, content).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}
