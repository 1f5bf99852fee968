//! A token that the sidecar would not verify. No policy is ever asked about such a token, so neither is one here.

use kith_policy::Reason;
use kith_proxy::rehearse::{Outcome, Sidecar};

use crate::policy::attempt::Attempt;

pub(super) struct Unverified {
    /// Issuer and subject, as they were stated.
    pub(super) token: String,
    pub(super) why: String,
    /// Tokens are looked at, and one of an issuer that nothing is said of is refused.
    is_refused: bool,
}

/// What comes of an attempt, its token aside.
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// Where the token alone is at fault: what it would be without.
    pub(super) without: Option<Outcome>,
}

impl Unverified {
    /// Takes it out of the attempt, if there is one that the sidecar would not verify.
    pub(super) fn take(attempt: &mut Attempt, sidecar: &Sidecar) -> Option<Self> {
        let stated = &mut attempt.request.as_mut()?.token;
        let token = stated.take_if(|it| !sidecar.has_rule_for(&it.issuer, &it.subject))?;
        let issuers = sidecar.issuers();
        let why = match issuers.as_slice() {
            [] => "no RequestAuthentication is for this workload".to_owned(),
            _ => format!(
                "no RequestAuthentication for this workload is about the issuer `{}`, only about {}",
                token.issuer,
                issuers.join(", ")
            ),
        };
        Some(Self {
            token: format!("{}/{}", token.issuer, token.subject),
            why,
            is_refused: !issuers.is_empty(),
        })
    }

    /// `attempt` is without the token.
    pub(super) fn answer(&self, attempt: &Attempt, sidecar: &Sidecar) -> Answer {
        let without = attempt.ask(sidecar);
        match without {
            // Tokens are examined right before the policies.
            Outcome::Decided(_) if self.is_refused => Answer {
                outcome: Outcome::Refused {
                    reason: Reason::TokenUntrusted,
                    why: self.why.clone(),
                },
                without: Some(without),
            },
            outcome => Answer {
                outcome,
                without: None,
            },
        }
    }

    /// For people, behind the token.
    pub(super) fn says(&self) -> String {
        let follows = match self.is_refused {
            true => "it is refused",
            false => "it is not looked at, and the answer is the one without a token",
        };
        format!("{}, not verified: {}, so {follows}", self.token, self.why)
    }
}
