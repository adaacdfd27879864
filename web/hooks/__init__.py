"""What providers call, and what links in e-mails lead to: each proves itself by a signature."""
