//! Rust source as tokens: what is left of a file when comments, layout and tests are taken away.
//!
//! Owns: finding and tokenizing files. May not touch: what the checks make of the tokens.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Every Rust file below `directory`, sorted; build output is left out.
pub(crate) fn rust_files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
            let path = entry.path();
            let kind = entry.file_type().with_context(|| format!("cannot look at {}", path.display()))?;
            if kind.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                open.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The tokens of a file.
pub(crate) fn read(path: &Path) -> anyhow::Result<TokenStream> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.parse().map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// Whether the keyword or name `word` occurs anywhere.
pub(crate) fn mentions(tokens: TokenStream, word: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == word,
        TokenTree::Group(group) => mentions(group.stream(), word),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

/// The tokens, one a line, without documentation and without items under `#[cfg(test)]`.
///
/// The text depends on the tokens only, not on how a library would print them.
pub(crate) fn canonical(tokens: TokenStream) -> String {
    let mut text = String::new();
    append(tokens, &mut text);
    text
}

fn append(tokens: TokenStream, text: &mut String) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        if let Some(attribute) = attribute(&token, &mut tokens) {
            let attribute_text = canonical(attribute.stream);
            if attribute_text.starts_with("doc\n") {
                continue;
            }
            if attribute_text == "cfg\n(\ntest\n)\n" {
                skip_item(&mut tokens);
                continue;
            }
            text.push_str(if attribute.inner { "#\n!\n[\n" } else { "#\n[\n" });
            text.push_str(&attribute_text);
            text.push_str("]\n");
            continue;
        }
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(\n", ")\n"),
                    Delimiter::Brace => ("{\n", "}\n"),
                    Delimiter::Bracket => ("[\n", "]\n"),
                    Delimiter::None => ("", ""),
                };
                text.push_str(open);
                append(group.stream(), text);
                text.push_str(close);
            }
            token => {
                text.push_str(&token.to_string());
                text.push('\n');
            }
        }
    }
}

struct Attribute {
    inner: bool,
    stream: TokenStream,
}

type Tokens = std::iter::Peekable<proc_macro2::token_stream::IntoIter>;

/// The attribute that begins with `token`; its other tokens are taken from `rest`.
fn attribute(token: &TokenTree, rest: &mut Tokens) -> Option<Attribute> {
    let is = |token: &TokenTree, wanted: char| matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted);
    if !is(token, '#') {
        return None;
    }
    let inner = rest.next_if(|token| is(token, '!')).is_some();
    match rest
        .next_if(|token| matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket))
    {
        Some(TokenTree::Group(group)) => Some(Attribute { inner, stream: group.stream() }),
        _ => None,
    }
}

/// Passes over one item: up to its braces or its semicolon.
fn skip_item(tokens: &mut Tokens) {
    for token in tokens {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return,
            TokenTree::Punct(punct) if punct.as_char() == ';' => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical_of(text: &str) -> String {
        canonical(text.parse().expect("tokens"))
    }

    #[test]
    fn comments_layout_and_tests_do_not_count() {
        let plain = "pub struct Key { pub port: [u8; 2] }";
        let dressed = "//! Module.\n/// A key. /* not */\npub struct Key {\n  /// Port.\n  pub port: [u8; 2] // why\n}\n\
                       #[cfg(test)]\n#[allow(unused)]\nmod tests { const X: u8 = 1; }\n#[cfg(test)] use a::b;";
        assert_eq!(canonical_of(plain), canonical_of(dressed));
    }

    #[test]
    fn what_changes_the_layout_counts() {
        let plain = "#[repr(C)] pub struct Key { pub port: [u8; 2] }";
        for changed in [
            "#[repr(C)] pub struct Key { pub port: [u8; 4] }",
            "#[repr(C, packed)] pub struct Key { pub port: [u8; 2] }",
            "#[repr(C)] pub struct Key { pub port: [u8; 2], pub pad: [u8; 2] }",
        ] {
            assert_ne!(canonical_of(plain), canonical_of(changed), "{changed}");
        }
    }

    #[test]
    fn words_in_comments_and_strings_are_not_code() {
        let mentions = |text: &str| mentions(text.parse().expect("tokens"), "unsafe");
        assert!(mentions("fn f() { unsafe { g() } }"));
        assert!(mentions("#[unsafe(no_mangle)] fn f() {}"));
        assert!(!mentions(
            "// unsafe\nfn f() -> &'static str { r#\"unsafe\"# } #[allow(unsafe_code)] mod m {}"
        ));
    }
}
