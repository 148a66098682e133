//! HTML by hand: one function escapes all text that is not ours.

use std::fmt;

use jiff::Timestamp;

use super::brand::Brand;

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

/// A whole page of `brand`. `main` is trusted.
pub(super) fn page(brand: &Brand, title: &str, signed_in: Option<&Html>, main: &Html) -> Html {
    let name = text(&brand.app_name);
    let footer = Html(format!(
        "<p>{name} acts for you only with the access you grant, and forgets you when you disconnect.</p>{}",
        links(brand)
    ));
    let empty = Html::default();
    document(brand, title, "", signed_in.unwrap_or(&empty), main, &footer)
}

/// A page for operators. `main` is trusted.
pub(super) fn operators_page(title: &str, operator: &str, main: &Html) -> Html {
    let who = Html(format!("<span class=\"who\">{}</span>", text(operator)));
    let footer =
        Html("<p>What is done here is recorded in the audit trail, with your name.</p>".to_owned());
    document(&Brand::default(), title, " class=\"wide\"", &who, main, &footer)
}

/// `body`: its attributes. All but the title is trusted.
fn document(
    brand: &Brand,
    title: &str,
    body: &str,
    beside: &Html,
    main: &Html,
    footer: &Html,
) -> Html {
    let title = text(title);
    let name = text(&brand.app_name);
    let logo = if brand.logo.is_some() { "/logo" } else { "/icon.svg" };
    Html(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title} – {name}</title>\n<link rel=\"stylesheet\" href=\"/style.css\">\n\
         <link rel=\"icon\" href=\"{logo}\">\n<script src=\"/times.js\" defer></script>\n</head>\n<body{body}>\n\
         <a class=\"skip\" href=\"#main\">Skip to content</a>\n\
         <header><div><a class=\"brand\" href=\"/\"><img src=\"{logo}\" alt=\"\" height=\"28\">{name}</a>{beside}</div></header>\n\
         <main id=\"main\" tabindex=\"-1\">\n{main}\n</main>\n\
         <footer><div>{footer}</div></footer>\n\
         </body>\n</html>\n"
    ))
}

/// A moment as the browser's locale shows it, by a script; without one in UTC.
pub(super) fn time(at: Timestamp) -> Html {
    Html(format!("<time datetime=\"{at:.0}\">{}</time>", at.strftime("%Y-%m-%d %H:%M UTC")))
}

/// What a company says about itself.
fn links(brand: &Brand) -> Html {
    let link = |href: &str, label: &str| format!("<a href=\"{}\">{}</a>", text(href), text(label));
    let mut links = Vec::new();
    links.extend(brand.privacy_url.iter().map(|url| link(url.as_str(), "Privacy")));
    links.extend(brand.terms_url.iter().map(|url| link(url.as_str(), "Terms")));
    let mail = brand.support_email.iter();
    links.extend(mail.map(|mail| link(&format!("mailto:{mail}"), &format!("Help: {mail}"))));
    if links.is_empty() {
        return Html::default();
    }
    Html(format!("<nav aria-label=\"About\">{}</nav>", links.join(" ")))
}

/// Shows the times of a page in the browser's own zone and language. Without it they stay as
/// they are, in UTC.
pub(super) const TIMES: &str = "for (const time of document.querySelectorAll('time')) {
  const at = new Date(time.dateTime);
  if (!isNaN(at)) time.textContent = at.toLocaleString(undefined, {dateStyle: 'medium', timeStyle: 'short'});
}
";

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
        let brand = Brand {
            app_name: hostile.to_owned(),
            support_email: Some(hostile.to_owned()),
            ..Brand::default()
        };
        let page = page(&brand, hostile, None, &text("x")).0;
        assert!(!page.contains("<script>") && !page.contains("\" onload"), "{page}");
    }
}
