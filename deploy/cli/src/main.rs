//! `kith`: see [`kith::cli`].

fn main() -> std::process::ExitCode {
    kith::cli::main(std::env::args_os().collect())
}
