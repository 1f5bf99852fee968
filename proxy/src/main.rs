use std::process::ExitCode;

fn main() -> ExitCode {
    kith_proxy::cli::main(std::env::args_os())
}
