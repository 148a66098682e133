//! Patterns for names: `*` and `?` stay within a folder, `**` does not; `[a-c]`, `[!a]`
//! and `{one,two}`.

/// A pattern, with its alternatives written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob(Vec<Vec<char>>);

impl Glob {
    /// `None` for an empty pattern, which every name matches.
    pub(super) fn parse(pattern: &str) -> Option<Self> {
        let written_out = || {
            let chosen = alternatives(pattern);
            let all = chosen.iter().flat_map(|one| with_and_without_folders(one));
            all.map(|one| one.chars().collect()).collect()
        };
        (!pattern.is_empty()).then(|| Self(written_out()))
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        self.0.iter().any(|pattern| matches(pattern, &name))
    }
}

/// A pattern without braces for each choice that braces offer.
fn alternatives(pattern: &str) -> Vec<String> {
    let braced = pattern.find('{').and_then(|open| {
        let close = open + pattern[open..].find('}')?;
        Some((&pattern[..open], &pattern[open + 1..close], &pattern[close + 1..]))
    });
    let Some((before, choices, after)) = braced else {
        return vec![pattern.to_owned()];
    };
    let choices = choices.split(',').map(|choice| format!("{before}{choice}{after}"));
    choices.flat_map(|pattern| alternatives(&pattern)).collect()
}

/// A whole `**/` stands for no folder, too: the pattern with each, and without.
fn with_and_without_folders(pattern: &str) -> Vec<String> {
    let whole = |at: &usize| *at == 0 || pattern[..*at].ends_with('/');
    let Some(at) = pattern.match_indices("**/").map(|(at, _)| at).find(whole) else {
        return vec![pattern.to_owned()];
    };
    let (before, after) = (&pattern[..at], &pattern[at + 3..]);
    let rest = with_and_without_folders(after);
    let kept =
        rest.iter().flat_map(|rest| [format!("{before}**/{rest}"), format!("{before}{rest}")]);
    kept.collect()
}

fn matches(pattern: &[char], name: &[char]) -> bool {
    match pattern {
        [] => name.is_empty(),
        ['*', '*', rest @ ..] => (0..=name.len()).any(|at| matches(rest, &name[at..])),
        ['*', rest @ ..] => (0..=name.len())
            .take_while(|at| !name[..*at].contains(&'/'))
            .any(|at| matches(rest, &name[at..])),
        ['?', rest @ ..] => name.first().is_some_and(|it| *it != '/') && matches(rest, &name[1..]),
        ['[', rest @ ..] if rest.iter().skip(1).any(|it| *it == ']') => {
            let end = 1 + rest.iter().skip(1).position(|it| *it == ']').unwrap_or(0);
            let (set, rest) = (&rest[..end], &rest[end + 1..]);
            name.first().is_some_and(|it| in_set(set, *it)) && matches(rest, &name[1..])
        }
        ['\\', literal, rest @ ..] | [literal, rest @ ..] => {
            name.first() == Some(literal) && matches(rest, &name[1..])
        }
    }
}

fn in_set(set: &[char], it: char) -> bool {
    let (negated, set) = match set {
        ['!' | '^', rest @ ..] => (true, rest),
        set => (false, set),
    };
    let mut found = false;
    let mut rest = set;
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        if let ['-', last, others @ ..] = rest {
            found |= (*first..=*last).contains(&it);
            rest = others;
        } else {
            found |= *first == it;
        }
    }
    it != '/' && found != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "dir/a.txt", false),
            ("**.txt", "dir/a.txt", true),
            ("dir/*", "dir/sub/a", false),
            ("dir/**", "dir/sub/a", true),
            ("**/b", "b", true),
            ("**/b", "a/a/b", true),
            ("a/**/b", "a/b", true),
            ("a**/b", "ab", false),
            ("?.txt", "a.txt", true),
            ("?.txt", "ab.txt", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[!a-c]x", "dx", true),
            ("{a,b}/{c,d}", "b/c", true),
            ("{a,b}/{c,d}", "c/a", false),
            ("a+b (1)", "a+b (1)", true),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
        ] {
            let glob = Glob::parse(pattern).expect("not empty");
            assert_eq!(glob.matches(name), expected, "{pattern} {name}");
        }
        assert_eq!(Glob::parse(""), None);
    }
}
