//! Providers over TLS, by a real server: a certificate that nobody trusts, or of another name, is refused before a
//! secret is sent.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::command_line::Purged;
use crate::support::process::{Process, Start as _};
use crate::support::program::{program, run};
use crate::support::until;

const TOKEN: &str = "very-secret-0123456789";

/// A server with a certificate of its own for a name. It appends what it is asked to `asked`, and answers POST with
/// `{"status":"ok"}`.
const SERVER: &str = r#"
import http.server, os, ssl, sys
folder = sys.argv[1]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        with open(folder + "/asked", "a") as asked:
            asked.write(self.requestline + " " + str(self.headers))
        self.send_response(200)
        self.send_header("Content-Length", "15")
        self.end_headers()
        self.wfile.write(b'{"status":"ok"}')
    def log_message(self, *arguments):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(folder + "/cert.pem", folder + "/key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
with open(folder + "/port.new", "w") as port:
    port.write(str(server.server_port))
os.rename(folder + "/port.new", folder + "/port")
server.serve_forever()
"#;

/// The server, killed with the value.
struct TlsServer {
    _child: Process,
    folder: tempfile::TempDir,
    port: String,
}

impl TlsServer {
    fn of(name: &str) -> TlsServer {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args([
                "-subj",
                "/CN=test",
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-addext",
                &format!("subjectAltName=DNS:{name}"),
            ])
            .args(["-keyout", &file("key.pem"), "-out", &file("cert.pem")])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let python = std::env::var("TEST_PYTHON").expect("scripts/test installs Python");
        let mut command = Command::new(python);
        command.args(["-c", SERVER]).arg(folder.path()).stdin(Stdio::null()).stderr(Stdio::null());
        let child = command.start();
        until("the server listens", || Path::new(&file("port")).exists());
        let port = std::fs::read_to_string(file("port")).unwrap();
        TlsServer { _child: child, folder, port }
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    fn asked(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("asked")).unwrap_or_default()
    }
}

#[test]
fn a_certificate_that_is_not_trusted_stops_the_provider_before_the_secret_is_sent() {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), TOKEN).unwrap();
    for (name, trusts, refusal) in [
        ("localhost", false, Some("UnknownIssuer")),
        ("elsewhere.example.org", true, Some("NotValidForName")),
        ("localhost", true, None),
    ] {
        let server = TlsServer::of(name);
        let (port, file) = (&server.port, token.path().display());
        let purged = Purged::new(&format!(
            "provider = \"fastly\"\nservice = \"S1\"\nendpoint = \"https://localhost:{port}\"\ntoken_file = '{file}'\nrebound = \"0s\""
        ));
        let list = purged.list(["1/0/0".to_owned()].into_iter());
        let mut command = program();
        command.args(["purge", "--tiles", &list, &purged.target, "--config", &purged.config]);
        if trusts {
            command.env("SSL_CERT_FILE", server.certificate());
        }
        let ran = run(&mut command).ok();
        if let Some(refusal) = refusal {
            let said = &ran.stdout;
            assert!(said.contains("the certificate of localhost") && said.contains(refusal), "{said}");
            assert_eq!(server.asked(), "", "{name}");
        } else {
            assert!(ran.stdout.contains("1 item sent, nothing waits"), "{}", ran.stdout);
            let asked = server.asked().to_lowercase();
            assert!(asked.contains(&format!("fastly-key: {TOKEN}")), "the same server, trusted");
        }
    }
}
