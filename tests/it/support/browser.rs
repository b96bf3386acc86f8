//! Chromium without a window, controlled through its debugging pipe (Chrome `DevTools` Protocol), as far as tests need
//! it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::process::{Process, Start as _};

/// The longest wait for an answer, and for a value in a page.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page. Ended when the value is dropped.
pub(crate) struct Browser {
    child: Process,
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    last: u64,
    /// The errors that pages have reported: exceptions, failed requests, `console.error`.
    errors: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts it, with an empty page and a profile of its own.
    pub(crate) fn new() -> Browser {
        let profile = tempfile::tempdir().unwrap();
        // The ends of the pipe are the browser's file descriptors 3 and 4.
        let script = "exec 3<&0 4>&1 0</dev/null 1>&2 && exec chromium \"$@\"";
        let mut child = Command::new("sh")
            .args(["-c", script, "sh", "--headless", "--no-sandbox", "--no-first-run", "--remote-debugging-pipe"])
            .args(["--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"])
            .args(["--disable-sync", "--disable-dev-shm-usage"])
            // No test uses the internet, even if it is available.
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost")
            // WebGL without a graphics card.
            .args(["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .start();
        let (commands, mut answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (send, messages) = channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            while answers.read_until(0, &mut text).is_ok_and(|length| length > 0) {
                text.pop();
                if send.send(serde_json::from_slice(&text).unwrap()).is_err() {
                    return;
                }
                text.clear();
            }
        });
        let mut browser =
            Browser { child, commands, messages, session: None, last: 0, errors: Vec::new(), _profile: profile };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attached =
            browser.call("Target.attachToTarget", &json!({ "targetId": target["targetId"], "flatten": true }));
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Runtime.enable", "Log.enable"] {
            browser.call(domain, &json!({}));
        }
        browser
    }

    /// Sends a command and waits for its result.
    #[track_caller]
    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.last += 1;
        let mut command = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).expect("Chromium is installed by scripts/test");
        self.commands.flush().unwrap();
        loop {
            let message = self.messages.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{method}: {error}"));
            if message["id"] == self.last {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            let params = &message["params"];
            let is_error = match message["method"].as_str() {
                Some("Runtime.exceptionThrown") => true,
                Some("Runtime.consoleAPICalled") => params["type"] == "error",
                Some("Log.entryAdded") => params["entry"]["level"] == "error",
                _ => false,
            };
            if is_error {
                self.errors.push(params.to_string());
            }
        }
    }

    /// Returns the errors that pages have reported so far, and clears the list.
    #[track_caller]
    pub(crate) fn take_errors(&mut self) -> Vec<String> {
        // Errors that the browser sent before this answer have been received by then.
        self.value("0");
        std::mem::take(&mut self.errors)
    }

    /// Presses and releases the mouse at a point of the page.
    #[track_caller]
    pub(crate) fn click(&mut self, x: f64, y: f64) {
        self.point(x, y);
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({ "type": kind, "x": x, "y": y, "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", &params);
        }
    }

    /// Moves the mouse to a point of the page.
    #[track_caller]
    pub(crate) fn point(&mut self, x: f64, y: f64) {
        self.call("Input.dispatchMouseEvent", &json!({ "type": "mouseMoved", "x": x, "y": y }));
    }

    /// Presses and releases a key, such as `Enter`, `Tab`, `Escape`, or a character.
    #[track_caller]
    pub(crate) fn press(&mut self, key: &str) {
        let code = match key {
            "Enter" => 13,
            "Tab" => 9,
            "Escape" => 27,
            _ => 0,
        };
        let mut params = json!({ "type": "keyDown", "key": key, "windowsVirtualKeyCode": code });
        if key == "Enter" {
            params["text"] = json!("\r");
        } else if key.chars().count() == 1 {
            params["text"] = json!(key);
        }
        self.call("Input.dispatchKeyEvent", &params);
        params["type"] = json!("keyUp");
        self.call("Input.dispatchKeyEvent", &params);
    }

    /// Sets the size of the page in pixels, and whether the visitor prefers dark colours. Animations are left out.
    #[track_caller]
    pub(crate) fn screen(&mut self, width: u32, height: u32, is_dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let scheme = json!({ "name": "prefers-color-scheme", "value": if is_dark { "dark" } else { "light" } });
        // Without a graphics card, the frames of an animation take seconds.
        let still = json!({ "name": "prefers-reduced-motion", "value": "reduce" });
        self.call("Emulation.setEmulatedMedia", &json!({ "features": [scheme, still] }));
    }

    /// Goes to a page.
    #[track_caller]
    pub(crate) fn open(&mut self, url: &str) {
        let gone = self.call("Page.navigate", &json!({ "url": url }));
        assert!(gone["errorText"].is_null(), "{url}: {gone}");
    }

    /// The value of a JavaScript expression in the page; for a promise, the value that it is resolved with.
    #[track_caller]
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", &params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression has a value, and returns it.
    #[track_caller]
    pub(crate) fn value_once_there(&mut self, expression: &str) -> Value {
        let begun = Instant::now();
        loop {
            let value = self.value(expression);
            if !value.is_null() {
                return value;
            }
            assert!(begun.elapsed() < PATIENCE, "still waiting for {expression}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // If the browser is asked to close, it ends all of its processes, and nothing writes into the profile any more
        // when that is removed.
        let asked =
            self.commands.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0").and_then(|()| self.commands.flush());
        let begun = Instant::now();
        while asked.is_ok() && begun.elapsed() < Duration::from_secs(10) {
            if let Ok(Some(_ended)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
