//! `postroad`: the command line for people.

use std::process::ExitCode;

fn main() -> ExitCode {
    postroad_cli::main()
}
