use std::process::ExitCode;

fn main() -> ExitCode {
    kith_control::cli::main(std::env::args_os())
}
