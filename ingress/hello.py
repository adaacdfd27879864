"""The reply to EHLO and LHLO: what is offered (RFC 5321, 4.1.1.1)."""

from ingress.door import IngressRules


def hello(rules: IngressRules, *, is_encrypted: bool, is_lmtp: bool) -> bytes:
    """Return the reply, all of its lines."""
    offered = [rules.host_name, f'SIZE {rules.max_message_bytes}', '8BITMIME', 'SMTPUTF8']
    if is_lmtp:
        offered.append('ENHANCEDSTATUSCODES')  # RFC 2033, 5
    else:
        if rules.certificate is not None and not is_encrypted:
            offered.append('STARTTLS')
        if rules.is_local or is_encrypted:
            offered.append('AUTH LOGIN PLAIN')
    offered += ['PIPELINING', 'HELP']
    lines = [f'250-{line}\r\n' for line in offered[:-1]]
    return ''.join([*lines, f'250 {offered[-1]}\r\n']).encode()
