//! HTML by hand: one function escapes all text that is not ours.

use std::fmt;

/// HTML that may be sent as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Html(pub(super) String);

impl fmt::Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text, for an element's content or a quoted attribute.
pub(super) fn text(text: impl AsRef<str>) -> Html {
    let mut out = String::with_capacity(text.as_ref().len());
    for c in text.as_ref().chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Reorders what follows on the screen.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    Html(out)
}

/// A whole page. `main` is trusted.
pub(super) fn page(title: &str, signed_in: Option<&Html>, main: &Html) -> Html {
    let title = text(title);
    let empty = Html::default();
    let sign_out = signed_in.unwrap_or(&empty);
    Html(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title} – Fleet</title>\n<link rel=\"stylesheet\" href=\"/style.css\">\n\
         <link rel=\"icon\" href=\"/icon.svg\" type=\"image/svg+xml\">\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#main\">Skip to content</a>\n\
         <header><div><a class=\"brand\" href=\"/\"><img src=\"/icon.svg\" alt=\"\" width=\"28\" height=\"28\">Fleet</a>{sign_out}</div></header>\n\
         <main id=\"main\" tabindex=\"-1\">\n{main}\n</main>\n\
         <footer><div>Fleet acts for you only with the access you grant, and forgets you when you disconnect.</div></footer>\n\
         </body>\n</html>\n"
    ))
}

/// The style sheet.
pub(super) const STYLE: &str = include_str!("style.css");

/// The icon: three ships of one fleet.
pub(super) const ICON: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 32 32\">\
<rect width=\"32\" height=\"32\" rx=\"8\" fill=\"#1f5fbf\"/>\
<path d=\"M6 21h20l-3 5H9zM9 19V8l6 11zM17 19V5l7 14z\" fill=\"#fff\"/></svg>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_markup() {
        let hostile = "<script>alert('1')</script>\" onload=x &amp; \u{202e}\0";
        let escaped = text(hostile).0;
        assert!(!escaped.contains(['<', '>', '"', '\'', '\0', '\u{202e}']), "{escaped}");
        assert!(escaped.contains("&amp;amp;"));
        let page = page(hostile, None, &text("x")).0;
        assert!(!page.contains("<script"));
    }
}
