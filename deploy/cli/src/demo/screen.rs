//! What a person watching the demo sees: a headline and the expectation when a step starts, what happened when it ends,
//! and in between, at every moment, how far it is.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Lines of a terminal that isn't one are written this far apart, so that logs stay readable.
const PLAIN_PROGRESS: Duration = Duration::from_secs(3);

/// How a step is announced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// For machines: never renamed.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) expected: &'static str,
}

/// How it ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) step: Step,
    pub(crate) result: Result<String, String>,
    pub(crate) took: Duration,
}

impl Outcome {
    fn to_json(&self) -> Value {
        let observed = self.result.as_ref().unwrap_or_else(|why| why);
        json!({
            "name": self.step.name, "expected": self.step.expected, "observed": observed, "ok": self.result.is_ok(),
            "ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// The result of the whole walk, as `--json` writes it.
pub(crate) fn report(outcomes: &[Outcome], finished: bool) -> Value {
    let ok = finished && outcomes.iter().all(|outcome| outcome.result.is_ok());
    json!({"ok": ok, "steps": outcomes.iter().map(Outcome::to_json).collect::<Vec<_>>()})
}

/// Prints to stdout; colours and moving lines only on a terminal.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: bool,
    colours: bool,
    progress: Option<Instant>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        let colours = terminal && std::env::var_os("NO_COLOR").is_none();
        Self {
            terminal,
            colours,
            progress: None,
        }
    }

    pub(crate) fn line(&mut self, text: &str) {
        self.clear();
        println!("{text}");
    }

    pub(crate) fn headline(&mut self, text: &str) {
        let text = self.bold(text);
        self.line(&text);
    }

    pub(crate) fn start(&mut self, number: usize, step: Step) {
        let title = self.bold(&format!("{number:>2}. {}", step.title));
        self.line(&format!("\n{title}\n    expected  {}", step.expected));
    }

    pub(crate) fn end(&mut self, outcome: &Outcome) {
        let seconds = outcome.took.as_secs_f64();
        let (word, text) = match &outcome.result {
            Ok(observed) => (self.paint("32", "ok"), observed),
            Err(why) => (self.paint("31", "FAILED"), why),
        };
        let text = text.replace('\n', "\n              ");
        self.line(&format!(
            "    observed  {text}\n    {word}  {}",
            self.paint("2", &format!("{seconds:.2} s"))
        ));
    }

    /// How far a step is: one line that changes on a terminal, a line now and then elsewhere.
    pub(crate) fn progress(&mut self, text: &str) {
        if self.terminal {
            print!(
                "\r\x1b[2K    {}",
                self.paint("2", &format!("…         {text}"))
            );
            let _ = io::stdout().flush();
            self.progress = Some(Instant::now());
        } else if self
            .progress
            .is_none_or(|last| last.elapsed() >= PLAIN_PROGRESS)
        {
            println!("    …         {text}");
            self.progress = Some(Instant::now());
        }
    }

    pub(crate) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn paint(&self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn clear(&mut self) {
        if self.progress.take().is_some() && self.terminal {
            print!("\r\x1b[2K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Step = Step {
        name: "a",
        title: "A",
        expected: "x",
    };

    fn check(results: &[Result<&str, &str>], finished: bool, ok: bool) {
        let outcomes: Vec<Outcome> = results
            .iter()
            .map(|result| Outcome {
                step: STEP,
                result: result.map(str::to_owned).map_err(str::to_owned),
                took: Duration::from_millis(3),
            })
            .collect();
        assert_eq!(report(&outcomes, finished)["ok"], ok);
    }

    #[test]
    fn a_walk_is_good_only_if_every_step_was() {
        check(&[Ok("x"), Ok("x")], true, true);
        check(&[Ok("x"), Ok("x")], false, false);
        check(&[Ok("x"), Err("y")], true, false);
        let outcome = Outcome {
            step: STEP,
            result: Err("y".to_owned()),
            took: Duration::from_millis(3),
        };
        let expected = json!({"name": "a", "expected": "x", "observed": "y", "ok": false, "ms": 3});
        assert_eq!(report(&[outcome], true)["steps"][0], expected);
    }
}
