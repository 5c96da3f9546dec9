//! The `vswitch` command. All code is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    vswitch::cli::main()
}
