//! The program: the command line is run by [`oar_tiles::cli`].

use std::process::ExitCode;

/// After a load of `reseed --watch`, glibc's allocator keeps most of the memory that the load has taken. jemalloc
/// returns it within seconds (benches/RESULTS.md, "Under load").
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    oar_tiles::cli::main()
}
