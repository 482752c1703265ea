//! The key of the flow hash, as it stands in a file.
//!
//! Owns: its syntax. May not touch: files; and must not show the key, or part of it, in an error.

/// Why a text is not a hash key. What it says does not give the text away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashKeyError {
    /// Too many or too few digits.
    #[error("a hash key is 32 hex digits, not {0} characters\n  help: {HELP}")]
    Length(usize),
    /// Something else than a hex digit; counted from 1.
    #[error("a hash key is 32 hex digits, and character {0} is not one\n  help: {HELP}")]
    NotHex(usize),
    /// No key at all: an outsider would guess it first.
    #[error("a hash key of zeroes only is no secret\n  help: {HELP}")]
    Zero,
}

const HELP: &str =
    "make one by `od -An -N16 -tx1 /dev/urandom | tr -d ' '` and give the same to every director";

/// Reads the contents of a `hash_key_file`: 32 hex digits, white space around them.
pub fn parse_hash_key(text: &str) -> Result<[u8; 16], HashKeyError> {
    let digits: Vec<char> = text.trim().chars().collect();
    if digits.len() != 32 {
        return Err(HashKeyError::Length(digits.len()));
    }
    let mut key = [0_u8; 16];
    for (i, digit) in digits.iter().enumerate() {
        let value = digit.to_digit(16).ok_or(HashKeyError::NotHex(i + 1))?;
        key[i / 2] = key[i / 2] << 4 | value as u8;
    }
    if key == [0; 16] { Err(HashKeyError::Zero) } else { Ok(key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_two_hex_digits() {
        let key = parse_hash_key(" 000102030405060708090A0b0c0d0e0f\n").unwrap();
        assert_eq!(key, std::array::from_fn(|i| i as u8));
    }

    #[test]
    fn anything_else_is_refused_without_showing_it() {
        assert_eq!(parse_hash_key(""), Err(HashKeyError::Length(0)));
        assert_eq!(parse_hash_key(&"a".repeat(33)), Err(HashKeyError::Length(33)));
        assert_eq!(parse_hash_key(&"é".repeat(32)), Err(HashKeyError::NotHex(1)));
        assert_eq!(parse_hash_key(&"0".repeat(32)), Err(HashKeyError::Zero));
        let error = parse_hash_key("000102030405060708090a0b0c0d0e0g").unwrap_err();
        assert_eq!(
            error.to_string(),
            "a hash key is 32 hex digits, and character 32 is not one\n  \
             help: make one by `od -An -N16 -tx1 /dev/urandom | tr -d ' '` and give the same to every director"
        );
    }
}
