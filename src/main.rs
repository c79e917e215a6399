//! The program `embervault`: arguments in, exit status out.

use std::process::ExitCode;

fn main() -> ExitCode {
    embervault::cli::run()
}
