//! A clock of its own for a program, so that a test of hours of the day need not wait for them.

use std::path::Path;
use std::process::Command;

/// Overrides the clock of the dynamic C library (`LD_PRELOAD`).
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, time);
    if (!failed && clock == CLOCK_REALTIME) time->tv_sec += atol(getenv("CLOCK_IS_AHEAD"));
    return failed;
}
"#;

/// Sets the clock of a program forward. `folder` is for the library that does it.
pub(crate) fn set_forward(command: &mut Command, folder: &Path, seconds: u64) {
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, CLOCK).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(compiled.success());
    command.env("LD_PRELOAD", library).env("CLOCK_IS_AHEAD", seconds.to_string());
}
