//! Whose pages `fleet web` serves, by its flags.

use std::path::PathBuf;

use crate::web::{Brand, Logo};
use url::Url;

use super::connect::read_small;
use super::optional_path::{given, path_or_nothing};
use super::output::Usage;

#[derive(Debug, clap::Args)]
pub(crate) struct BrandArgs {
    /// The name of the application that the pages belong to
    #[arg(long, env = "FLEET_APP_NAME", default_value = "Fleet", value_name = "NAME")]
    app_name: String,
    /// Path of its logo: PNG, JPEG, WebP or SVG
    #[arg(long, env = "FLEET_LOGO", value_name = "FILE", value_parser = path_or_nothing())]
    logo: Option<PathBuf>,
    /// Address of its privacy policy
    #[arg(long, env = "FLEET_PRIVACY_URL", value_name = "URL")]
    privacy_url: Option<String>,
    /// Address of its terms of service
    #[arg(long, env = "FLEET_TERMS_URL", value_name = "URL")]
    terms_url: Option<String>,
    /// Whom people write to
    #[arg(long, env = "FLEET_SUPPORT_EMAIL", value_name = "EMAIL")]
    support_email: Option<String>,
}

impl BrandArgs {
    /// Reads the logo and checks the addresses. Empty ones are as good as none.
    pub(super) fn read(&self) -> Result<Brand, Usage> {
        let logo = given(self.logo.as_ref())
            .map(|path| {
                let read = Logo::read(read_small(path)?);
                read.map_err(|why| Usage(format!("--logo {}: {why}", path.display())))
            })
            .transpose()?;
        let filled = |text: &Option<String>| {
            text.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let address = |flag: &str, text: &Option<String>| {
            let parsed = filled(text).map(|text| match Url::parse(&text) {
                Ok(url) if matches!(url.scheme(), "https" | "http") => Ok(url),
                _ => Err(Usage(format!("{flag} {text:?} is not a web address"))),
            });
            parsed.transpose()
        };
        let support_email = filled(&self.support_email);
        if support_email.as_ref().is_some_and(|email| !is_email(email)) {
            return Err(Usage("--support-email is not an email address".to_owned()));
        }
        let app_name = self.app_name.trim();
        Ok(Brand {
            app_name: if app_name.is_empty() {
                Brand::default().app_name
            } else {
                app_name.to_owned()
            },
            logo,
            privacy_url: address("--privacy-url", &self.privacy_url)?,
            terms_url: address("--terms-url", &self.terms_url)?,
            support_email,
        })
    }
}

/// Enough to make a `mailto:` link of it.
fn is_email(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && !"?&#%,;:\"<>()[]\\".contains(c);
    text.split_once('@').is_some_and(|(name, host)| {
        !name.is_empty() && host.contains('.') && !host.contains('@') && text.chars().all(plain)
    })
}
