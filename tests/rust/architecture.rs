//! Holds the Rust side of the house to its floors.
//!
//! Reads every file under `src/` and fails on: a `crate::` (or `super::`) path that climbs, `pyo3` or `numpy` outside
//! `bindings`, `unsafe` outside `simd` and `bindings/array.rs`, a file that is too long, a `mod.rs` without its opening
//! paragraph, a doc comment with a banned opening, a floor of a module that does not exist. A small lexer blanks comments
//! and literals first, so that prose is free.

use std::fs;
use std::path::{Path, PathBuf};

/// The floors, lowest first. A module may use its own floor and those below; one row here per top-level module.
const FLOORS: &[&[&str]] = &[
    &["error", "interrupt", "threads"],
    &["simd"],
    &["formats", "checkpoint"],
    &["quant"],
    &["gemm"],
    &["model"],
    &["bindings"],
];

/// Crates that only the PyO3 line may name.
const PYTHON_CRATES: &[&str] = &["pyo3", "numpy"];

/// The floor that owns `unsafe`, and the files that read what NumPy holds and lend it memory.
const UNSAFE_ALLOWED: &[&str] = &["simd/", "bindings/array.rs", "bindings/kept.rs"];

/// Words that no doc comment begins with: it starts with a verb or a noun.
const BANNED_OPENINGS: &[&str] = &["What", "Whether", "Of", "Those", "That which"];

const MAX_LINES: usize = 600;

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

/// The source with comments, strings and characters blanked out; line breaks stay, so that line numbers hold.
fn code_only(source: &str) -> String {
    let text: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut i = 0;
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    while i < text.len() {
        let rest = &text[i..];
        let length = match rest {
            ['/', '/', ..] => rest.iter().position(|&c| c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => block_comment(rest),
            ['r', '"' | '#', ..] if !word_before(&out) => raw_string(rest),
            ['b', 'r', '"' | '#', ..] if !word_before(&out) => match raw_string(&rest[1..]) {
                0 => 0,
                length => length + 1,
            },
            ['"', ..] => quoted(rest, '"'),
            ['\'', ..] => character(rest),
            _ => 0,
        };
        if length == 0 {
            out.push(text[i]);
            i += 1;
        } else {
            out.extend(text[i..i + length].iter().map(|&c| blank(c)));
            i += length;
        }
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word_before(out: &str) -> bool {
    out.chars().next_back().is_some_and(is_word)
}

/// Length of a block comment; they nest in Rust.
fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut i) = (0, 0);
    while i < rest.len() {
        match &rest[i..] {
            ['/', '*', ..] => (depth, i) = (depth + 1, i + 2),
            ['*', '/', ..] => {
                (depth, i) = (depth - 1, i + 2);
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    rest.len()
}

/// Length of `r"..."` or `r#"..."#`, or 0 for a raw identifier such as `r#type`.
fn raw_string(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&c| c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = 2 + hashes;
    let end = rest[body..].windows(close.len()).position(|w| w == close);
    end.map_or(rest.len(), |at| body + at + close.len())
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut i = 1;
    while i < rest.len() && rest[i] != quote {
        i += if rest[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(rest.len())
}

/// Length of a character literal, or 0 for a lifetime.
fn character(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', ..] => quoted(rest, '\''),
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

/// Words with the line that each stands on; `::`, `{`, `}` and `,` are words of their own, as paths need them.
fn words(code: &str) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            let mut word = c.to_string();
            if is_word(c) {
                while let Some(next) = chars.next_if(|&n| is_word(n)) {
                    word.push(next);
                }
            } else if c == ':' && chars.next_if_eq(&':').is_some() {
                word.push(':');
            } else if c.is_whitespace() {
                continue;
            }
            out.push((number + 1, word));
        }
    }
    out
}

/// First names after a path prefix that ends at `at`: one for `crate::a`, several for `crate::{a, b::c}`.
fn heads(words: &[(usize, String)], at: usize) -> Vec<(usize, String)> {
    let Some((line, first)) = words.get(at) else { return Vec::new() };
    if first != "{" {
        return vec![(*line, first.clone())];
    }
    let (mut depth, mut expected, mut found) = (0, false, Vec::new());
    for (line, word) in &words[at..] {
        match word.as_str() {
            "{" => {
                depth += 1;
                expected = depth == 1;
            }
            "}" => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            "," if depth == 1 => expected = true,
            name if expected && depth == 1 => {
                found.push((*line, name.to_string()));
                expected = false;
            }
            _ => {}
        }
    }
    found
}

/// Top-level modules that a file names, through `crate::` or through enough `super::` to reach the root.
fn roots_named(path: &str, words: &[(usize, String)]) -> Vec<(usize, String)> {
    // src/quant/tile.rs is quant::tile, two steps below the root; src/quant/mod.rs is quant, one step.
    let depth = path.split('/').filter(|&part| part != "mod.rs" && part != "lib.rs").count();
    let mut out = Vec::new();
    let mut i = 0;
    while i < words.len() {
        let mut supers = 0;
        while i + 1 < words.len() && words[i].1 == "super" && words[i + 1].1 == "::" {
            supers += 1;
            i += 2;
        }
        if supers > 0 {
            if supers >= depth {
                out.extend(heads(words, i));
            }
            continue;
        }
        if words[i].1 == "crate" && words.get(i + 1).is_some_and(|w| w.1 == "::") {
            out.extend(heads(words, i + 2));
        }
        i += 1;
    }
    out
}

/// All violations in one file; `path` is relative to `src/`, with forward slashes.
fn check(path: &str, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = source.lines().count();
    if lines > MAX_LINES {
        found.push(format!("{path}: {lines} lines, at most {MAX_LINES} are allowed"));
    }
    if (path.ends_with("mod.rs") || path == "lib.rs") && !source.trim_start().starts_with("//!") {
        found.push(format!("{path}: must open with a `//!` paragraph that says what lives here"));
    }
    let top = path.split('/').next().unwrap_or(path).trim_end_matches(".rs");
    let own = floor(top);
    if own.is_none() && path != "lib.rs" {
        found.push(format!("{path}: module `{top}` stands on no floor; add it to FLOORS"));
    }
    let mut before = None;
    for (number, line) in source.lines().enumerate() {
        let doc = doc_text(line);
        if let Some(banned) = doc.filter(|_| before.is_none_or(str::is_empty)).and_then(banned_opening) {
            found.push(format!("{path}:{}: a doc comment opens with `{banned}`", number + 1));
        }
        before = doc;
    }
    let words = words(&code_only(source));
    for (line, word) in &words {
        let word = word.as_str();
        if PYTHON_CRATES.contains(&word) && top != "bindings" {
            found.push(format!("{path}:{line}: `{word}` outside bindings"));
        }
        if word == "unsafe" && !UNSAFE_ALLOWED.iter().any(|allowed| path.starts_with(allowed)) {
            found.push(format!("{path}:{line}: `unsafe` outside simd"));
        }
    }
    if let Some(own) = own {
        for (line, module) in roots_named(path, &words) {
            if floor(&module).is_some_and(|used| used > own) {
                found.push(format!("{path}:{line}: `{top}` uses `{module}`, which stands above it"));
            }
        }
    }
    found
}

/// The text of a line of a doc comment.
fn doc_text(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.strip_prefix("///").or_else(|| line.strip_prefix("//!")).map(str::trim)
}

/// The banned words that a doc comment opens with.
fn banned_opening(text: &str) -> Option<&'static str> {
    let opens = |banned: &&&str| {
        text.strip_prefix(**banned).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
    };
    BANNED_OPENINGS.iter().find(opens).copied()
}

fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src/ is readable") {
        let path = entry.expect("src/ is readable").path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn floors_are_the_modules() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules: Vec<String> = fs::read_dir(&src)
        .expect("src/ is readable")
        .map(|entry| entry.expect("src/ is readable").file_name().to_string_lossy().into_owned())
        .map(|name| name.trim_end_matches(".rs").to_string())
        .filter(|name| name != "lib")
        .collect();
    let mut floors: Vec<String> = FLOORS.concat().into_iter().map(str::to_string).collect();
    modules.sort();
    floors.sort();
    assert_eq!(floors, modules, "FLOORS lists the modules of src/");
}

#[test]
fn source_keeps_its_floors() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    files.sort();
    assert!(files.len() > 3, "found only {} files under {}", files.len(), src.display());
    let mut found = Vec::new();
    for file in &files {
        let parts: Vec<_> = file.strip_prefix(&src).unwrap().iter().map(|p| p.to_string_lossy()).collect();
        found.extend(check(&parts.join("/"), &fs::read_to_string(file).unwrap()));
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// The checker itself: each row is a file that breaks one rule, and a part of the message that it must give.
#[test]
fn checker_catches_each_violation() {
    let long = format!("//! Long.\n{}", "// line\n".repeat(MAX_LINES));
    let rows: &[(&str, &str, &str)] = &[
        ("simd/mod.rs", "//! S.\nuse crate::formats::Format;", "`simd` uses `formats`"),
        ("formats/table.rs", "fn f() { crate::quant::tile::run() }", "`formats` uses `quant`"),
        ("quant/tile.rs", "use crate::{formats::{a, b}, gemm::c};", "`quant` uses `gemm`"),
        ("quant/tile.rs", "use super::super::bindings;", "`quant` uses `bindings`"),
        ("quant/mod.rs", "//! Q.\nuse super::{simd, model};", "`quant` uses `model`"),
        ("error.rs", "use crate::simd::Level;", "`error` uses `simd`"),
        ("quant/tile.rs", "use pyo3::prelude::*;", "`pyo3` outside bindings"),
        ("formats/encode.rs", "use numpy::PyArray1;", "`numpy` outside bindings"),
        ("quant/tile.rs", "fn f() { unsafe { g() } }", "`unsafe` outside simd"),
        ("bindings/formats.rs", "unsafe impl Send for X {}", "`unsafe` outside simd"),
        ("quant/tile.rs", "/// Whether it is so.\nfn f() {}", "opens with `Whether`"),
        ("gemm/mod.rs", "//! What it is.", "opens with `What`"),
        ("quant/tile.rs", &long, "lines, at most"),
        ("quant/mod.rs", "use crate::simd;", "must open with"),
        ("attic/mod.rs", "//! A.", "stands on no floor"),
    ];
    for (path, source, message) in rows {
        let found = check(path, source);
        assert!(found.iter().any(|f| f.contains(message)), "{path}: {source:?} gave {found:?}");
    }
}

/// Lines that look like a violation and are none.
#[test]
fn checker_accepts_what_is_allowed() {
    let rows: &[(&str, &str)] = &[
        ("bindings/quant.rs", "use pyo3::prelude::*;\nuse crate::{quant, formats, simd};"),
        ("simd/avx2.rs", "unsafe fn f() {}\nuse super::Level;"),
        ("bindings/array.rs", "fn f() { unsafe { g() } }"),
        ("quant/tile.rs", "use crate::formats::Format;\nuse super::scale;\nuse crate::error::Error;"),
        (
            "quant/tile.rs",
            "// crate::gemm is above, pyo3 is elsewhere, unsafe too\n/* crate::model /* unsafe */ */",
        ),
        (
            "quant/tile.rs",
            "const S: &str = \"unsafe \\\" crate::gemm\"; const R: &str = r#\"pyo3 \" unsafe\"#;",
        ),
        ("quant/tile.rs", "fn f<'a>(c: &'a str) -> char { if c == \"x\" { '\"' } else { '\\'' } }"),
        ("quant/tile.rs", "#![forbid(unsafe_code)]\nlet numpy_like = 1;"),
        ("lib.rs", "//! C.\npub mod simd;\n#[cfg(feature = \"python\")]\nmod bindings;"),
    ];
    for (path, source) in rows {
        assert_eq!(check(path, source), Vec::<String>::new(), "{path}: {source:?}");
    }
}
