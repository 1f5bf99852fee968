//! Reading value after value, and keeping what is wrong with them until all have been read.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::command::Flags;
use super::probes::AppProbes;
use super::variables::{VARIABLES, nearest};

/// The one variable whose value is never shown: headers of probes may be credentials.
const PROBES: &str = "KITH_APP_PROBES";

/// One thing to correct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The variable or the flag, as the user knows it.
    pub name: String,
    /// None when it is missing.
    pub value: Option<String>,
    pub expected: String,
}

/// Everything to correct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            // Escaped, because it goes to a terminal.
            Some(value) => write!(f, "{}={:?}: {}", self.name, value, self.expected),
            None => write!(f, "{}: {}", self.name, self.expected),
        }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mistakes(mistakes) = self;
        write!(
            f,
            "{} in the configuration:",
            if mistakes.len() == 1 {
                "a mistake"
            } else {
                "mistakes"
            }
        )?;
        mistakes
            .iter()
            .try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl std::error::Error for Mistakes {}

struct Given {
    name: String,
    value: String,
}

pub(super) struct Reader {
    given: BTreeMap<&'static str, Given>,
    mistakes: Vec<Mistake>,
}

impl Reader {
    pub(super) fn new(environment: impl Iterator<Item = (String, String)>, flags: Flags) -> Self {
        let mut reader = Reader {
            given: BTreeMap::new(),
            mistakes: Vec::new(),
        };
        let environment: BTreeMap<String, String> = environment.collect();
        let links = service_links(&environment);
        for (name, value) in environment {
            match VARIABLES.iter().find(|variable| variable.name == name) {
                Some(variable) => {
                    reader.given.insert(variable.name, Given { name, value });
                }
                None if name.starts_with("KITH_")
                    && !links.iter().any(|link| is_link(&name, link)) =>
                {
                    reader.unknown(name, value);
                }
                None => {}
            }
        }
        for (variable, value) in flags.0 {
            reader.given.insert(
                variable.name,
                Given {
                    name: format!("--{}", variable.flag),
                    value,
                },
            );
        }
        reader
    }

    fn unknown(&mut self, name: String, value: String) {
        let expected = match nearest(&name) {
            Some(known) => format!("there is no such variable; did you mean {known}?"),
            None => "there is no such variable; kith-proxy run --help lists them".into(),
        };
        self.mistakes.push(Mistake {
            name,
            value: Some(value),
            expected,
        });
    }

    /// The value, or the default, or a mistake.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        parse: fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let parsed = self.optional(name, parse);
        let variable = VARIABLES.iter().find(|variable| variable.name == name);
        if let Some(variable) =
            variable.filter(|variable| variable.required && !self.given.contains_key(name))
        {
            let expected = format!("is required: {}", lower_first(variable.help));
            self.mistakes.push(Mistake {
                name: name.into(),
                value: None,
                expected,
            });
        }
        parsed
    }

    /// The value, or the default, or nothing.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        parse: fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let Some(given) = self.given.get(name) else {
            let default = VARIABLES
                .iter()
                .find(|variable| variable.name == name)?
                .default?;
            return parse(default).ok();
        };
        let parsed = match given.value.as_str() {
            "" => Err("is empty; leave it out for the default".into()),
            value if value.contains(char::REPLACEMENT_CHARACTER) => Err("is not UTF-8".into()),
            value if value.trim() != value => Err("has white space around it".into()),
            value => parse(value),
        };
        match parsed {
            Ok(value) => Some(value),
            Err(expected) => {
                let value = (name != PROBES).then(|| given.value.clone());
                self.mistakes.push(Mistake {
                    name: given.name.clone(),
                    value,
                    expected,
                });
                None
            }
        }
    }

    /// Two listeners can't have one port, unless their addresses differ.
    pub(super) fn refuse_clashes(&mut self, listeners: &[(&'static str, Option<SocketAddr>)]) {
        for (index, (name, address)) in listeners.iter().enumerate() {
            for (earlier, other) in &listeners[..index] {
                let (Some(address), Some(other)) = (address, other) else {
                    continue;
                };
                if address.port() == other.port()
                    && address.port() != 0
                    && overlap(address.ip(), other.ip())
                {
                    let given = self.given.get(name).or(self.given.get(earlier));
                    self.mistakes.push(Mistake {
                        name: given.map_or_else(|| (*name).to_owned(), |given| given.name.clone()),
                        value: given.map(|given| given.value.clone()),
                        expected: format!(
                            "{name} and {earlier} need different ports, both have {}",
                            address.port()
                        ),
                    });
                }
            }
        }
    }

    /// They are made at the pod's address.
    pub(super) fn refuse_probes_without_address(&mut self, probes: &AppProbes) {
        if !probes.is_empty() && !self.given.contains_key("KITH_POD_IP") {
            self.mistakes.push(Mistake {
                name: "KITH_POD_IP".into(),
                value: None,
                expected: format!("is required with {PROBES}: the pod's own IP address"),
            });
        }
    }

    /// Nobody reaches the proxy itself through it.
    pub(super) fn refuse_own_ports(&mut self, probes: &AppProbes, own: [u16; 4]) {
        for (name, probe) in probes {
            let port = probe.check.port();
            if own.contains(&port) {
                self.mistakes.push(Mistake {
                    name: PROBES.into(),
                    value: None,
                    expected: format!(
                        "{name}: port {port} is the sidecar's own, not the application's"
                    ),
                });
            }
        }
    }

    pub(super) fn finish<T>(self, config: Option<T>) -> Result<T, Mistakes> {
        match config {
            Some(config) if self.mistakes.is_empty() => Ok(config),
            _ => Err(Mistakes(self.mistakes)),
        }
    }
}

fn overlap(one: IpAddr, other: IpAddr) -> bool {
    one == other || one.is_unspecified() || other.is_unspecified()
}

/// Kubernetes gives every container variables for the services of its namespace: a service named `kith-control` makes
/// `KITH_CONTROL_SERVICE_HOST`, `KITH_CONTROL_PORT_15010_TCP` and so on. They are nobody's mistake.
fn service_links(environment: &BTreeMap<String, String>) -> HashSet<String> {
    let host = |(name, value): (&String, &String)| {
        value.parse::<IpAddr>().ok()?;
        name.strip_suffix("_SERVICE_HOST").map(str::to_owned)
    };
    environment.iter().filter_map(host).collect()
}

fn is_link(name: &str, service: &str) -> bool {
    let Some(rest) = name.strip_prefix(service) else {
        return false;
    };
    rest == "_SERVICE_HOST"
        || ["_SERVICE_PORT", "_PORT"].iter().any(|kind| {
            rest.strip_prefix(kind)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        })
}

fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(characters).collect()
    })
}
