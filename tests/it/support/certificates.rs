//! Certificates for servers of tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs openssl in a folder.
fn openssl(folder: &Path, arguments: &str) {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Creates a certificate authority of that name, and a server's certificate for "localhost" signed by it (`server.crt`,
/// `server.key`). Returns the path of the authority's certificate.
pub(crate) fn certificates(folder: &Path, name: &str) -> PathBuf {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(folder, &format!("req -x509 {key} -days 30 -subj /CN={name} -keyout {name}.key -out {name}.crt"));
    openssl(folder, &format!("req {key} -subj /CN=localhost -keyout server.key -out server.csr"));
    fs::write(folder.join("server.ext"), "subjectAltName = DNS:localhost\n").unwrap();
    openssl(
        folder,
        &format!(
            "x509 -req -in server.csr -CA {name}.crt -CAkey {name}.key -CAcreateserial -days 30 -extfile server.ext -out server.crt"
        ),
    );
    folder.join(format!("{name}.crt"))
}
