//! The `kdsync` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    kdsync::cli::main()
}
