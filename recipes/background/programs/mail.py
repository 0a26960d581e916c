"""Mail of a small office: an SMTP server, and a client that sends four messages."""

from __future__ import annotations

import smtplib
import sys
import time
from email.message import EmailMessage

if sys.argv[1] == "serve":
    from aiosmtpd.controller import Controller
    from aiosmtpd.handlers import Sink

    Controller(Sink(), hostname="0.0.0.0", port=25).start()
    time.sleep(600)
for number in range(4):
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ann@example.org", "bob@example.org", f"Minutes, part {number}"
    message.set_content("Please find the minutes below.\n" * (10 + 40 * number))
    with smtplib.SMTP(sys.argv[2], 25, timeout=5) as server:
        server.send_message(message)
