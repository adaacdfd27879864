"""Submits a message to the ingress, by STARTTLS and with a token; prints whose certificate it has.

Its arguments are the ingress's address, the token and the recipient. It runs on the machine.
"""

import smtplib
import ssl
import sys

MESSAGE = 'From: shop@example.com\r\nSubject: By SMTP\r\n\r\nHello.'


def main(address: str, token: str, recipient: str) -> None:
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP(address, 2525) as client:
        client.starttls(context=unchecked)
        sys.stdout.write(ssl.DER_cert_to_PEM_cert(client.sock.getpeercert(binary_form=True)))
        client.login('wordpress', token)
        client.sendmail('shop@example.com', [recipient], MESSAGE)


if __name__ == '__main__':
    main(*sys.argv[1:])
