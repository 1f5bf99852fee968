//! What the API server refuses, in words that say who has to allow what.

use kube::core::Status;
use kube::runtime::watcher;

use crate::problem::printable;

/// As much as fits on a line of a log.
const LONGEST: usize = 300;

/// Why a kind cannot be watched at the moment. It is tried again in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Its CustomResourceDefinition is not there.
    NotInstalled,
    /// It is, in these versions; the one that is read here was not among them when it was asked for.
    OtherVersions(Vec<String>),
    /// RBAC. Empty: the API server did not say whom it refused.
    Forbidden { verb: &'static str, user: String },
    /// The version that was seen last is no longer known: everything is listed anew.
    Expired,
    /// Anything else, e.g. a connection that broke.
    Other(String),
}

impl Trouble {
    pub(crate) fn of(error: &watcher::Error) -> Self {
        use watcher::Error as E;
        let (verb, status) = match error {
            E::InitialListFailed(kube::Error::Api(status)) => ("list", status),
            E::WatchStartFailed(kube::Error::Api(status))
            | E::WatchFailed(kube::Error::Api(status))
            | E::WatchError(status) => ("watch", status),
            other => return Self::Other(in_full(other)),
        };
        Self::of_status(verb, status)
    }

    fn of_status(verb: &'static str, status: &Status) -> Self {
        match status.code {
            404 => Self::NotInstalled,
            403 => Self::Forbidden {
                verb,
                user: user(&status.message),
            },
            410 => Self::Expired,
            _ => Self::Other(printable(&status.message, LONGEST)),
        }
    }

    /// For metrics.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NotInstalled => "not-installed",
            Self::OtherVersions(_) => "other-version",
            Self::Forbidden { .. } => "forbidden",
            Self::Expired => "expired",
            Self::Other(_) => "other",
        }
    }

    /// For people; `resource` and `group` as RBAC has them.
    pub(crate) fn describe(&self, resource: &str, group: &str) -> String {
        let kind = match group {
            "" => resource.to_owned(),
            group => format!("{resource}.{group}"),
        };
        match self {
            Self::NotInstalled => {
                format!("the API server does not know {kind}: apply its CustomResourceDefinition")
            }
            Self::OtherVersions(versions) => {
                let versions = versions.join(", ");
                format!(
                    "the API server has {kind} as {versions} only, which is not read here, so nothing is known of what they \
                     restrict: upgrade their CustomResourceDefinition (Istio 1.22 or newer), or leave --accept-istio away"
                )
            }
            Self::Forbidden { verb, user } => {
                let user = if user.is_empty() {
                    "this user".to_owned()
                } else {
                    format!("`{user}`")
                };
                let group = if group.is_empty() {
                    "the core API group".to_owned()
                } else {
                    format!("API group `{group}`")
                };
                format!(
                    "{user} may not {verb} `{resource}` of {group}: allow the verbs get, list and watch on it in a \
                     ClusterRole that is bound to this user"
                )
            }
            Self::Expired => format!("{kind} are listed anew: what was seen last has expired"),
            Self::Other(message) => format!("{kind} cannot be watched: {message}"),
        }
    }
}

/// An error with its causes: the outermost of a client's says only that something failed.
pub(super) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    printable(&text, LONGEST)
}

/// `pods is forbidden: User "somebody" cannot list resource …`
fn user(message: &str) -> String {
    let quoted = message
        .split_once("User \"")
        .and_then(|(_, rest)| rest.split_once('"'));
    quoted.map_or_else(String::new, |(user, _)| printable(user, LONGEST))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(code: u16, message: &str, resource: &str, group: &str, expected: Expect) {
        let status = Status {
            code,
            message: message.into(),
            ..Status::failure("", "")
        };
        let error = watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()));
        expected.assert_eq(&Trouble::of(&error).describe(resource, group));
    }

    #[test]
    fn what_rbac_refuses_is_told_with_verb_resource_group_and_user() {
        check(
            403,
            "pods is forbidden: User \"system:serviceaccount:kith-system:kith-control\" cannot list resource \"pods\" in API group \"\" at the cluster scope",
            "pods",
            "",
            expect![
                "`system:serviceaccount:kith-system:kith-control` may not list `pods` of the core API group: allow the verbs get, list and watch on it in a ClusterRole that is bound to this user"
            ],
        );
        check(
            403,
            "no",
            "meshconfigs",
            "kith.dev",
            expect![
                "this user may not list `meshconfigs` of API group `kith.dev`: allow the verbs get, list and watch on it in a ClusterRole that is bound to this user"
            ],
        );
    }

    #[test]
    fn a_kind_that_is_not_installed_is_told_apart() {
        check(
            404,
            "the server could not find the requested resource",
            "meshconfigs",
            "kith.dev",
            expect![
                "the API server does not know meshconfigs.kith.dev: apply its CustomResourceDefinition"
            ],
        );
    }

    #[test]
    fn anything_else_is_told_in_the_servers_words_on_one_line() {
        check(
            500,
            "etcd\nis gone",
            "pods",
            "",
            expect!["pods cannot be watched: etcd\\nis gone"],
        );
    }
}
