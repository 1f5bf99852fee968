//! Service accounts: `namespace/account`, or `account` in the policy's own namespace.

use super::text::Pattern;
use crate::principal::is_segment_byte;
use crate::store::{Run, Store, StoreBuilder, Text, append};

/// One service account pattern: `ns/sa`, or `sa` in the policy's own namespace, or `*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account<T> {
    pub(crate) namespace: T,
    pub(crate) account: T,
    pub(crate) wildcard: Wildcard,
}

/// Where the `*` of a service account stands; the part without it is compared whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wildcard {
    Nowhere,
    /// `ns/sa*`, `ns/*`, `sa*`
    AfterAccount,
    /// `*sa`
    BeforeAccount,
    /// `*ns/sa`, `*/sa`
    BeforeNamespace,
    /// `*`: any account at all, and nothing is written beside it.
    Alone,
}

impl<'a> Account<&'a str> {
    pub(crate) fn matches(self, namespace: &str, account: &str) -> bool {
        let in_namespace = *namespace == *self.namespace;
        match self.wildcard {
            Wildcard::Alone => true,
            Wildcard::Nowhere => in_namespace && *account == *self.account,
            Wildcard::AfterAccount => in_namespace && account.starts_with(self.account),
            Wildcard::BeforeAccount => in_namespace && account.ends_with(self.account),
            Wildcard::BeforeNamespace => {
                namespace.ends_with(self.namespace) && *account == *self.account
            }
        }
    }

    /// As it is written in a policy, always with its namespace.
    pub(crate) fn written(self) -> String {
        let Self {
            namespace, account, ..
        } = self;
        match self.wildcard {
            Wildcard::Alone => "*".to_owned(),
            Wildcard::Nowhere => format!("{namespace}/{account}"),
            Wildcard::AfterAccount => format!("{namespace}/{account}*"),
            Wildcard::BeforeAccount => format!("{namespace}/*{account}"),
            Wildcard::BeforeNamespace => format!("*{namespace}/{account}"),
        }
    }

    fn parse(value: &'a str, policy_namespace: &'a str) -> Result<Self, String> {
        let of_account = |byte| is_segment_byte(byte) || byte == b'/';
        let pattern = Pattern::parse_of(value, of_account, "a service account")?;
        let (namespace, account) = pattern
            .literal()
            .split_once('/')
            .unwrap_or((policy_namespace, pattern.literal()));
        if account.contains('/') {
            return Err(format!(
                "`{value}` can never match: a service account is `namespace/account` or `account`"
            ));
        }
        let wildcard = match pattern {
            Pattern::Any => {
                return Ok(Self {
                    namespace: "",
                    account: "",
                    wildcard: Wildcard::Alone,
                });
            }
            Pattern::Exact(_) | Pattern::Template(_) => Wildcard::Nowhere,
            Pattern::Prefix(_) => Wildcard::AfterAccount,
            Pattern::Suffix(text) if text.contains('/') => Wildcard::BeforeNamespace,
            Pattern::Suffix(_) => Wildcard::BeforeAccount,
        };
        if (account.is_empty() && wildcard != Wildcard::AfterAccount)
            || (namespace.is_empty() && wildcard != Wildcard::BeforeNamespace)
        {
            return Err(format!(
                "`{value}` can never match: the namespace or the account is empty"
            ));
        }
        Ok(Self {
            namespace,
            account,
            wildcard,
        })
    }
}

impl Store {
    pub(crate) fn account(&self, account: Account<Text>) -> Account<&str> {
        Account {
            namespace: self.text(account.namespace),
            account: self.text(account.account),
            wildcard: account.wildcard,
        }
    }

    /// Any of them.
    pub(crate) fn matches_account(
        &self,
        accounts: Run<Account<Text>>,
        namespace: &str,
        account: &str,
    ) -> bool {
        accounts
            .of(&self.accounts)
            .iter()
            .any(|&pattern| self.account(pattern).matches(namespace, account))
    }
}

impl StoreBuilder {
    pub(crate) fn accounts(
        &mut self,
        values: &[String],
        policy_namespace: &str,
        refuse: &mut dyn FnMut(usize, String),
    ) -> Run<Account<Text>> {
        let mut accounts = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            match Account::parse(value, policy_namespace) {
                Err(message) => refuse(index, message),
                Ok(account) => accounts.push(Account {
                    namespace: self.text(account.namespace),
                    account: self.text(account.account),
                    wildcard: account.wildcard,
                }),
            }
        }
        append(&mut self.accounts, accounts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(value: &str) -> Result<Account<&str>, String> {
        Account::parse(value, "own")
    }

    #[test]
    fn a_service_account_without_namespace_is_in_that_of_the_policy() {
        for (pattern, matching, other) in [
            (
                "shop/web",
                &["shop/web"][..],
                &["shop/webx", "shopx/web", "x/web"][..],
            ),
            ("web", &["own/web"], &["shop/web", "own/webx"]),
            ("shop/*", &["shop/web", "shop/api"], &["shopx/web"]),
            ("shop/w*", &["shop/web"], &["shop/api", "own/web"]),
            ("*/web", &["shop/web", "own/web"], &["shop/xweb"]),
            ("*op/web", &["shop/web"], &["own/web"]),
            ("w*", &["own/web"], &["shop/web", "own/api"]),
            ("*eb", &["own/web"], &["shop/web"]),
            ("*", &["own/web", "shop/api"], &[]),
        ] {
            let check = |text: &str| {
                let (namespace, name) = text.split_once('/').unwrap();
                account(pattern).unwrap().matches(namespace, name)
            };
            assert!(matching.iter().all(|text| check(text)), "{pattern}");
            assert!(!other.iter().any(|text| check(text)), "{pattern}");
        }
        for refused in ["a/b/c", "/a", "a/", "*/", "", "a*/b", "a b"] {
            assert!(account(refused).is_err(), "{refused}");
        }
    }
}
