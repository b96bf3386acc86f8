//! A Redis server of a test's own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use super::process::{Process, Start as _};
use super::until;

/// A server that keeps nothing on disk, killed when the value is dropped.
pub(crate) struct Redis {
    child: Process,
    port: u16,
    password: String,
    arguments: Vec<String>,
}

impl Redis {
    /// A server with a password, and more arguments.
    pub(crate) fn start(password: &str, arguments: &[&str]) -> Redis {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let redis = Redis { child: begun(port, password, &arguments), port, password: password.to_owned(), arguments };
        redis.wait();
        redis
    }

    /// The same, which also accepts TLS at a separate port, with the certificate of a folder; returns its address for
    /// TLS.
    pub(crate) fn start_with_tls(password: &str, folder: &std::path::Path) -> (Redis, String) {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let (certificate, key) = (file("server.crt"), file("server.key"));
        let tls = ["--tls-port", &port, "--tls-cert-file", &certificate, "--tls-key-file", &key];
        let clients = ["--tls-ca-cert-file", &certificate, "--tls-auth-clients", "no"];
        let redis = Redis::start(password, &[&tls[..], &clients].concat());
        (redis, format!("rediss://:{password}@localhost:{port}"))
    }

    /// Its address, with the password.
    pub(crate) fn url(&self) -> String {
        format!("redis://:{}@127.0.0.1:{}", self.password, self.port)
    }

    fn wait(&self) {
        until("Redis answers", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
        until("Redis is ready", || self.ask(&[b"PING"]) == b"PONG");
    }

    /// The keys that it has.
    pub(crate) fn keys(&self) -> Vec<String> {
        let all = self.ask(&[b"EVAL", b"return table.concat(redis.call('KEYS', '*'), ' ')", b"0"]);
        String::from_utf8(all).unwrap().split_whitespace().map(str::to_owned).collect()
    }

    /// Sends a command; returns its answer: a text, a number, or the bytes of a value (Redis serialization protocol 2).
    pub(crate) fn ask(&self, command: &[&[u8]]) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let mut send = |command: &[&[u8]]| {
            write!(stream, "*{}\r\n", command.len()).unwrap();
            for part in command {
                write!(stream, "${}\r\n", part.len()).unwrap();
                stream.write_all(part).unwrap();
                stream.write_all(b"\r\n").unwrap();
            }
        };
        send(&[b"AUTH", self.password.as_bytes()]);
        send(command);
        let mut answer = BufReader::new(stream);
        let mut line = String::new();
        answer.read_line(&mut line).unwrap();
        line.clear();
        answer.read_line(&mut line).unwrap();
        let line = line.trim_end();
        match line.strip_prefix('$').map(str::parse::<usize>) {
            Some(Ok(length)) => {
                let mut value = vec![0; length];
                answer.read_exact(&mut value).unwrap();
                value
            }
            Some(Err(_none)) => Vec::new(),
            None => line.as_bytes()[1..].to_vec(),
        }
    }

    /// Sends it a signal, such as `-STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again at the same address.
    pub(crate) fn restart(&mut self) {
        self.child = begun(self.port, &self.password, &self.arguments);
        self.wait();
    }
}

fn begun(port: u16, password: &str, arguments: &[String]) -> Process {
    let port = port.to_string();
    Command::new("redis-server")
        .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--requirepass", password])
        .args(arguments)
        .current_dir(std::env::temp_dir())
        .stdout(Stdio::null())
        .start()
}
