//! The command line: parses, calls the library, renders, and knows exit codes.

pub mod output;

/// Runs the program with the process's arguments.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
