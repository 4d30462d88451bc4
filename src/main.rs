//! The `dreamc` command.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
