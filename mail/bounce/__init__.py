"""What comes back: reports of failures (RFC 3464) and complaints (RFC 5965), read and bounded."""
