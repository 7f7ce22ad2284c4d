//! Mail printed instead of sent, for development: the one place where a link is shown.

use std::io::Write;

use super::{Failure, letter::Message};

/// Prints the text of a mail to standard error, in one piece.
pub fn print(message: &Message) -> Result<(), Failure> {
    let page = format!(
        "\n---- mail to {} (MAIL_PROVIDER=console: not sent) ----\nSubject: {}\n\n{}----\n\n",
        message.recipient, message.subject, message.text
    );
    std::io::stderr().lock().write_all(page.as_bytes()).map_err(|error| Failure::temporary(error.to_string()))
}
