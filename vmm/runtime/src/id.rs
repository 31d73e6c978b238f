//! Container ids.

use std::fmt;
use std::str::FromStr;

/// A container's name. It is safe as a file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerId(String);

/// Why a text is not a container id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing, or one of the two names that every directory has.
    #[error("not a container id: empty, `.` and `..` are taken")]
    Reserved,
    /// A character that is not allowed.
    #[error("not a container id: {0:?} is not allowed; use letters, digits and _ + - .")]
    Character(char),
    /// Longer than a file name.
    #[error("not a container id: longer than {MAX_BYTES} bytes")]
    TooLong,
}

/// The longest file name on Linux.
const MAX_BYTES: usize = 255;

impl ContainerId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if matches!(text, "" | "." | "..") {
            return Err(IdError::Reserved);
        }
        if text.len() > MAX_BYTES {
            return Err(IdError::TooLong);
        }
        let allowed = |character: char| character.is_ascii_alphanumeric() || "_+-.".contains(character);
        match text.chars().find(|character| !allowed(*character)) {
            None => Ok(Self(text.to_owned())),
            Some(character) => Err(IdError::Character(character)),
        }
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_runc() {
        for good in ["a", "A-b_c+d.e", ".hidden", "...", "0"] {
            assert_eq!(good.parse::<ContainerId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "a b", "a\0b", "ü", "../x", "a@b"] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?}");
        }
        assert_eq!("x".repeat(256).parse::<ContainerId>(), Err(IdError::TooLong));
    }
}
