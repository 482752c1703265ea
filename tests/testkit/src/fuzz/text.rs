//! Any text as configuration and as hash key.

use weir_config::{HashKeyError, effective_toml, parse, parse_hash_key};

/// A configuration file: what is accepted comes back from its own rendering; what is refused is refused with places that
/// are in the text, in order, each with a sentence and advice.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match parse("f", text) {
        Ok(config) => {
            let effective = effective_toml(&config);
            let again = parse("effective", &effective)
                .unwrap_or_else(|errors| panic!("its own rendering is refused: {errors}\n{effective}"));
            assert_eq!(again, config, "comes back as another");
            assert_eq!(effective_toml(&again), effective, "is rendered in two ways");
        }
        Err(errors) => {
            let shown = errors.to_string();
            let errors = errors.as_slice();
            assert!(!errors.is_empty(), "refused without a reason");
            assert!(errors.is_sorted_by_key(|error| error.position), "{shown}");
            // A line break at the end begins a line, too.
            let lines: Vec<&str> = text.split('\n').collect();
            for error in errors {
                for sentence in [&error.message, &error.help] {
                    assert!(!sentence.is_empty() && !sentence.contains('\n'), "{error:?}");
                }
                if let Some(position) = error.position {
                    let line = lines.get(position.line as usize - 1);
                    let is_there =
                        line.is_some_and(|line| (position.column as usize) <= line.chars().count() + 1);
                    assert!(is_there && position.column > 0, "a place that is not in the text: {error:?}");
                }
            }
        }
    }
}

/// A hash key file: accepted if and only if it is 32 hex digits that are not all zero, and read as they stand.
pub fn hash_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let digits: Vec<char> = text.trim().chars().collect();
    let wrong = digits.iter().position(|digit| !digit.is_ascii_hexdigit());
    match parse_hash_key(text) {
        Ok(key) => {
            let again = format!("{:032x}", u128::from_be_bytes(key));
            assert_eq!(again, text.trim().to_ascii_lowercase());
            assert_ne!(key, [0; 16]);
        }
        Err(HashKeyError::Length(len)) => assert!(len == digits.len() && len != 32),
        Err(HashKeyError::NotHex(at)) => assert!(digits.len() == 32 && wrong == Some(at - 1)),
        Err(HashKeyError::Zero) => assert_eq!(text.trim(), "0".repeat(32)),
    }
}
