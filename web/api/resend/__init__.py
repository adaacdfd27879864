"""Sending over HTTP as Resend's e-mail API has it, so that its official SDKs send through us."""
