//! `kith inject`: sidecars for manifests, by the function that the webhook calls.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kith_control::Problem;
use kith_control::inject::Settings;
use kith_control::inject::manifest::{Part, inject_text};
use similar::TextDiff;

/// How much of what stays is shown around what changes.
const CONTEXT: usize = 3;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Manifests, several documents in one if need be; `-` is standard input.
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The injection settings: `kubectl -n kith-system get configmap kith-injection -o jsonpath='{.data.injection\.yaml}'`
    #[arg(long, value_name = "FILE")]
    settings: PathBuf,
    /// Print what would change, as a unified diff, instead of the result. Both sides are written in the same way: comments
    /// and layout are no difference.
    #[arg(long)]
    diff: bool,
    /// Exit 1 when something would change.
    #[arg(long)]
    check: bool,
    /// Keep warnings, and what is left alone, to yourself.
    #[arg(long)]
    quiet: bool,
}

/// What is read from standard input, in messages.
const STDIN: &str = "<stdin>";

#[must_use]
pub fn main(arguments: &Arguments) -> ExitCode {
    match run(arguments) {
        Ok(changed) if changed && arguments.check => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(problems) => {
            for problem in &problems {
                eprintln!("{problem}");
            }
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, Vec<Problem>> {
    let settings = read(&arguments.settings).map_err(|problem| vec![problem])?;
    let settings = Settings::parse(&arguments.settings, &settings)?;
    let mut problems = Vec::new();
    let mut output = String::new();
    let mut notes = Vec::new();
    let mut changed = false;
    for path in &arguments.files {
        let text = match read(path) {
            Ok(text) => text,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        let file = if is_stdin(path) {
            Path::new(STDIN)
        } else {
            path
        };
        match inject_text(file, &text, &settings) {
            Ok(parts) => {
                changed |= parts.iter().any(|part| part.injected.is_some());
                notes.extend(parts.iter().flat_map(|part| notes_of(file, part)));
                if arguments.diff {
                    output.extend(parts.iter().filter_map(|part| difference(file, part)));
                } else {
                    append(&mut output, &parts);
                }
            }
            Err(found) => problems.extend(found),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    if !arguments.quiet {
        for note in notes {
            eprintln!("{note}");
        }
    }
    let mut stdout = std::io::stdout().lock();
    // Nobody is left to tell when standard output is closed, `| head` included.
    _ = stdout
        .write_all(output.as_bytes())
        .and_then(|()| stdout.flush());
    Ok(changed)
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn read(path: &Path) -> Result<String, Problem> {
    let text = if is_stdin(path) {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    text.map_err(|error| Problem {
        file: path.into(),
        line: 0,
        field: String::new(),
        message: format!("cannot be read: {error}"),
    })
}

/// A file's documents behind those of the file before.
fn append(output: &mut String, parts: &[Part<'_>]) {
    let text: String = parts.iter().map(Part::result).collect();
    if !output.is_empty() {
        if !output.ends_with('\n') {
            output.push('\n');
        }
        if !text.starts_with("---") {
            output.push_str("---\n");
        }
    }
    output.push_str(&text);
}

fn notes_of(file: &Path, part: &Part<'_>) -> Vec<String> {
    let file = file.display();
    let injected = part.injected.iter();
    let warnings = injected.flat_map(|injected| &injected.warnings);
    let warnings = warnings.map(|warning| format!("{file}: warning: {warning}"));
    let left =
        (part.left.iter()).map(|(name, reason)| format!("{file}: {name} is left alone: {reason}"));
    warnings.chain(left).collect()
}

fn difference(file: &Path, part: &Part<'_>) -> Option<String> {
    let injected = part.injected.as_ref()?;
    let name = format!("{}: {}", file.display(), injected.name);
    let difference = TextDiff::from_lines(&injected.before, &injected.after);
    let text = difference
        .unified_diff()
        .context_radius(CONTEXT)
        .header(&name, &format!("{name}, injected"))
        .to_string();
    Some(text)
}
