"""Text protocols line by line: which words are the protocol's, and where credentials, names and what people wrote lie.

FTP (RFC 959), SMTP (RFC 5321), POP3 (RFC 1939), IMAP (RFC 9051), IRC (RFC 2812), SIP (RFC 3261), Redis (RESP), XMPP (RFC 6120).
Only words of a protocol's own list are left unmarked; whatever else stands in a line is some kind of span.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trafficllm.capture.facts.spans import span_of
from trafficllm.core.types import ORIG, RESP, Span

Spans = list[Span]
_MOST_LINES = 512
_BETWEEN = frozenset((b" ", b"\t", b":"))
_WORD = re.compile(rb"[A-Za-z][A-Za-z0-9-]*")


def _words(text: str) -> frozenset[bytes]:
    return frozenset(text.encode().split())


@dataclass(frozen=True, slots=True)
class Grammar:
    """One protocol's words: `verbs` begin a line, `pairs` follow certain verbs, `secret` and `named` say what the rest of a line is.

    `reply` matches the head of an answer, `prefix` what may stand before a verb; `body` is the verb after which lines are a message.
    """

    verbs: frozenset[bytes]
    secret: frozenset[bytes] = frozenset()
    named: frozenset[bytes] = frozenset()
    pairs: frozenset[bytes] = frozenset()
    reply: re.Pattern[bytes] = re.compile(rb"\d{3}[ -]?")
    prefix: re.Pattern[bytes] | None = None
    body: bytes = b"\0"


_SMTP = Grammar(
    _words("HELO EHLO LHLO MAIL RCPT DATA BDAT RSET VRFY EXPN HELP NOOP QUIT STARTTLS AUTH SIZE PIPELINING 8BITMIME SMTPUTF8 CHUNKING DSN"),
    _words("AUTH"),
    _words("HELO EHLO LHLO MAIL RCPT VRFY EXPN"),
    frozenset((b"MAIL FROM", b"RCPT TO", b"AUTH LOGIN", b"AUTH PLAIN", b"AUTH CRAM-MD5", b"AUTH NTLM", b"AUTH XOAUTH2")),
    body=b"DATA",
)
_FTP = Grammar(
    _words(
        "USER PASS ACCT CWD CDUP SMNT QUIT REIN PORT PASV EPRT EPSV TYPE STRU MODE RETR STOR STOU APPE ALLO REST RNFR RNTO ABOR "
        "DELE RMD MKD PWD LIST NLST SITE SYST STAT HELP NOOP FEAT OPTS MDTM SIZE MLSD MLST AUTH PBSZ PROT CCC UTF8 TVFS XPWD "
        "XMKD XRMD"
    ),
    _words("USER PASS ACCT"),
    _words("PORT EPRT"),
    frozenset((b"AUTH TLS", b"AUTH SSL", b"TYPE I", b"TYPE A", b"OPTS UTF8", b"PROT P", b"PROT C")),
)
_POP3 = Grammar(
    _words(
        "USER PASS APOP STAT LIST RETR DELE NOOP RSET QUIT TOP UIDL CAPA STLS AUTH SASL UTF8 EXPIRE PIPELINING RESP-CODES IMPLEMENTATION"
    ),
    _words("USER PASS APOP AUTH"),
    pairs=frozenset((b"AUTH PLAIN", b"AUTH LOGIN", b"AUTH CRAM-MD5", b"AUTH NTLM", b"SASL PLAIN", b"SASL LOGIN")),
    reply=re.compile(rb"\+OK ?|-ERR ?|\+ "),
)
_IMAP = Grammar(
    _words(
        "CAPABILITY NOOP LOGOUT STARTTLS AUTHENTICATE LOGIN SELECT EXAMINE CREATE DELETE RENAME SUBSCRIBE UNSUBSCRIBE LIST LSUB "
        "STATUS APPEND IDLE DONE CHECK CLOSE EXPUNGE SEARCH FETCH STORE COPY MOVE UID ENABLE NAMESPACE ID OK NO BAD BYE PREAUTH "
        "FLAGS EXISTS RECENT"
    ),
    _words("LOGIN AUTHENTICATE"),
    _words("SELECT EXAMINE CREATE DELETE RENAME SUBSCRIBE UNSUBSCRIBE STATUS APPEND ID"),
    frozenset((b"AUTHENTICATE PLAIN", b"AUTHENTICATE LOGIN", b"UID FETCH", b"UID SEARCH", b"UID STORE", b"UID COPY")),
    reply=re.compile(rb"\* |\+ "),
    prefix=re.compile(rb"[A-Za-z0-9.]{1,16} "),
)
_IRC = Grammar(
    _words(
        "PASS NICK USER OPER MODE SERVICE QUIT SQUIT JOIN PART TOPIC NAMES LIST INVITE KICK PRIVMSG NOTICE MOTD LUSERS VERSION "
        "STATS LINKS TIME CONNECT TRACE ADMIN INFO WHO WHOIS WHOWAS KILL PING PONG ERROR AWAY CAP AUTHENTICATE USERHOST ISON"
    ),
    _words("PASS NICK USER OPER AUTHENTICATE"),
    _words("JOIN PART TOPIC NAMES INVITE KICK WHO WHOIS WHOWAS KILL MODE USERHOST ISON"),
    frozenset((b"CAP LS", b"CAP REQ", b"CAP END", b"CAP ACK")),
    reply=re.compile(rb"\d{3} "),
    prefix=re.compile(rb":[^ \r\n]{1,255} +"),
)


def smtp(orig: bytes, resp: bytes) -> Spans:
    """Spans of both directions of an SMTP session."""
    return _session(_SMTP, orig, resp)


def ftp(orig: bytes, resp: bytes) -> Spans:
    """Spans of an FTP control connection."""
    return _session(_FTP, orig, resp)


def pop3(orig: bytes, resp: bytes) -> Spans:
    """Spans of a POP3 session."""
    return _session(_POP3, orig, resp)


def imap(orig: bytes, resp: bytes) -> Spans:
    """Spans of an IMAP session."""
    return _session(_IMAP, orig, resp)


def irc(orig: bytes, resp: bytes) -> Spans:
    """Spans of an IRC session."""
    return _session(_IRC, orig, resp)


def _session(grammar: Grammar, orig: bytes, resp: bytes) -> Spans:
    return [span for d, data in ((ORIG, orig), (RESP, resp)) for span in _direction(grammar, d, data)]


def lines(data: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of each line without its end of line; what is behind the last that is looked at comes as one."""
    at = 0
    for _ in range(_MOST_LINES):
        if at >= len(data):
            return
        stop = data.find(b"\n", at)
        end = len(data) if stop < 0 else stop
        yield at, end - (end > at and data[end - 1] == 0x0D)
        at = end + 1
    if at < len(data):
        yield at, len(data)


def _direction(grammar: Grammar, direction: int, data: bytes) -> Iterator[Span]:
    secret = message = False
    for start, end in lines(data):
        line = data[start:end]
        if message:
            message = line != b"."
            shown, kind = (1 if line == b"." else 0), "content"
        else:
            shown, kind, verb = _head(grammar, line)
            secret = verb in grammar.secret if verb else secret
            message = verb == grammar.body and direction == ORIG
            if not verb and secret and direction == ORIG:
                kind = "credential"
        if prefix := grammar.prefix.match(line) if grammar.prefix and shown else None:
            yield span_of(direction, start, start + len(prefix[0]) - 1, "name" if line[:1] == b":" else "content")
        while shown and line[shown : shown + 1] in _BETWEEN:
            shown += 1
        if shown < len(line):
            yield span_of(direction, start + shown, end, kind)


def _head(grammar: Grammar, line: bytes) -> tuple[int, str, bytes]:
    """How much of a line is the protocol's own, what the rest is, and its verb ("" without one)."""
    at, kind = 0, "content"
    if grammar.prefix and (prefix := grammar.prefix.match(line)):
        at = prefix.end()
    if reply := grammar.reply.match(line, at) or grammar.reply.match(line):
        word = _WORD.match(line, reply.end())
        shown = word.end() if word and word[0].upper() in grammar.verbs else reply.end()
        return shown, kind, b""
    word = _WORD.match(line, at)
    if not word or word[0].upper() not in grammar.verbs or line[word.end() : word.end() + 1] not in {b"", b" ", b"\t", b":"}:
        return 0, kind, b""
    verb = word[0].upper()
    kind = "credential" if verb in grammar.secret else "name" if verb in grammar.named else kind
    after = _WORD.match(line, word.end() + 1)
    paired = after and verb + b" " + after[0].upper() in grammar.pairs and line[after.end() : after.end() + 1] in {b"", b" ", b":"}
    return (after.end() if after and paired else word.end()), kind, verb


_SIP_METHODS = _words("INVITE ACK BYE CANCEL REGISTER OPTIONS PRACK SUBSCRIBE NOTIFY PUBLISH INFO REFER MESSAGE UPDATE")
_SIP_NAMED = _words(
    "VIA FROM TO CALL-ID CONTACT ROUTE RECORD-ROUTE P-ASSERTED-IDENTITY P-PREFERRED-IDENTITY REFER-TO REFERRED-BY V F T I M "
    "REMOTE-PARTY-ID HISTORY-INFO DIVERSION PATH SERVICE-ROUTE SUBJECT S ORGANIZATION DATE ALERT-INFO CALL-INFO REPLY-TO "
    "IN-REPLY-TO"
)
_SIP_SECRET = _words("AUTHORIZATION PROXY-AUTHORIZATION WWW-AUTHENTICATE PROXY-AUTHENTICATE AUTHENTICATION-INFO")
_SIP_PLAIN = _words("CSEQ MAX-FORWARDS CONTENT-LENGTH L CONTENT-TYPE C EXPIRES ALLOW SUPPORTED K REQUIRE ACCEPT USER-AGENT SERVER EVENT O")
_SIP_STATUS = re.compile(rb"SIP/2\.0 \d{3}")
_SIP_VERSION = b" SIP/2.0"


def looks_like_sip(data: bytes) -> bool:
    """A request line with a method of SIP and a sip: or tel: target, or a status line."""
    head = data[:24]
    return head.startswith(b"SIP/2.0 ") or (head.split(b" ", 1)[0] in _SIP_METHODS and re.match(rb"[A-Z]+ (sips?|tel):", head) is not None)


def sip(orig: bytes, resp: bytes) -> Spans:
    """Spans of SIP messages: targets and the headers that name people or machines, credentials, bodies (SDP)."""
    return [span for d, data in ((ORIG, orig), (RESP, resp)) for span in _sip(d, data)]


def _sip(direction: int, data: bytes) -> Iterator[Span]:
    body = True
    for start, end in lines(data):
        line = data[start:end]
        if status := _SIP_STATUS.match(line):
            body = False
            yield span_of(direction, start + status.end(), end, "content")
        elif looks_like_sip(line):
            body = False
            stop = end - len(_SIP_VERSION) if line.endswith(_SIP_VERSION) else end
            yield span_of(direction, start + line.index(b" ") + 1, stop, "name")
        elif body or not line:
            body = True
            yield span_of(direction, start, end, "content")
        else:
            yield from _sip_header(direction, start, end, line)


def _sip_header(direction: int, start: int, end: int, line: bytes) -> Iterator[Span]:
    name, colon, _ = line.partition(b":")
    key = name.strip().upper()
    if colon and key in _SIP_PLAIN:
        return
    shown = len(name) + 1 if colon and key in _SIP_NAMED | _SIP_SECRET else 0
    yield span_of(direction, start + shown, end, "credential" if key in _SIP_SECRET else "name")


_REDIS = _words(
    "GET SET DEL INFO PING PONG AUTH HELLO CONFIG SELECT KEYS SCAN HGET HSET HGETALL LPUSH RPUSH LPOP RPOP LRANGE SADD "
    "SMEMBERS ZADD ZRANGE EXPIRE TTL INCR DECR EXISTS PUBLISH SUBSCRIBE PSUBSCRIBE MULTI EXEC EVAL EVALSHA SLAVEOF REPLICAOF "
    "REPLCONF PSYNC SYNC CLIENT COMMAND FLUSHALL FLUSHDB SAVE BGSAVE DBSIZE MONITOR MODULE SYSTEM.EXEC QUIT CLUSTER MGET "
    "MSET SETEX ACL OK"
)
_REDIS_SECRET = frozenset((b"AUTH", b"HELLO", b"ACL"))
_RESP = re.compile(rb"\*\d{1,4}\r\n\$\d{1,6}\r\n[A-Za-z]")
_INLINE = re.compile(rb"(?i)(AUTH|PING|INFO|SELECT|CONFIG|GET|SET|KEYS)( [^\r\n]*)?\r\n")


def looks_like_redis(orig: bytes) -> bool:
    """A command array (RESP)."""
    return _RESP.match(orig) is not None


def looks_like_inline_redis(orig: bytes, resp: bytes) -> bool:
    """A command in a line of its own, with an answer as Redis gives one."""
    return _INLINE.match(orig) is not None and re.match(rb"\+OK\r\n|\+PONG|-[A-Z]+ |\$\d+\r\n", resp) is not None


def redis(orig: bytes, resp: bytes) -> Spans:
    """Spans of Redis: keys and values are content, what follows AUTH, HELLO and ACL a credential."""
    return [span for d, data in ((ORIG, orig), (RESP, resp)) for span in _redis(d, data)]


def _redis(direction: int, data: bytes) -> Iterator[Span]:
    kind, first = "content", True
    for start, end in lines(data):
        line = data[start:end]
        if re.fullmatch(rb"\*-?\d{1,6}", line):
            kind, first = "content", True
        elif re.fullmatch(rb"\$-?\d{1,9}", line):
            yield span_of(direction, start + 1, end, kind)
        else:
            word = re.match(rb"[+-]?([A-Za-z.]+)", line)
            known = word if word and word[1].upper() in _REDIS and (first or line[:1] in {b"+", b"-"}) else None
            if known:
                kind = "credential" if known[1].upper() in _REDIS_SECRET else "content"
            shown = known.end() if known else 0
            if shown < len(line):
                yield span_of(direction, start + shown, end, kind)
            first = False


_TAGS = re.compile(
    rb"</?(?:stream:(?:stream|features|error)|iq|message|presence|auth|challenge|response|success|failure|starttls|proceed|query|bind|session|body"
    rb"|mechanisms|mechanism|compression|method|ping|error|resource|jid|username|password|digest|vCard|r|a)(?=[ />])"
)


def looks_like_xmpp(data: bytes) -> bool:
    """A stream header (RFC 6120 section 4)."""
    return b"<stream:stream" in data[:256]


def xmpp(orig: bytes, resp: bytes) -> Spans:
    """Spans of XMPP: only the names of its elements are left unmarked."""
    out: Spans = []
    for d, data in ((ORIG, orig), (RESP, resp)):
        at, kind = 0, "content"
        for tag in _TAGS.finditer(data):
            if at < tag.start():
                out.append(span_of(d, at, tag.start(), kind))
            at = tag.end()
            secret = tag[0].lstrip(b"</") in {b"auth", b"response", b"challenge", b"username", b"password", b"digest", b"jid"}
            kind = "credential" if secret and tag[0][:2] != b"</" else "content"
        if at < len(data):
            out.append(span_of(d, at, len(data), kind))
    return out


_OPTION = re.compile(rb"\xff(?:[\xfb-\xfe][\x00-\xff]|[\xf1-\xf9])")


def looks_like_telnet(data: bytes) -> bool:
    """An option negotiation (RFC 854)."""
    return len(data) >= 3 and data[0] == 0xFF and 0xFB <= data[1] <= 0xFE


def telnet(orig: bytes, resp: bytes) -> Spans:
    """Spans of Telnet: options are left; the first two lines typed are a login, all other text is content."""
    out: Spans = []
    for d, data in ((ORIG, orig), (RESP, resp)):
        at, typed = 0, 0
        for option in [*_OPTION.finditer(data), None]:
            end = option.start() if option else len(data)
            for a, b in _typed(data, at, end):
                out.append(span_of(d, a, b, "credential" if d == ORIG and typed < _LOGIN_LINES else "content"))
                typed += data[b - 1 : b] in {b"\r", b"\n"}
            at = option.end() if option else len(data)
    return out


_LOGIN_LINES = 2


def _typed(data: bytes, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Stretches of text, each with its end of line."""
    for match in re.finditer(rb"[^\r\n]*(?:[\r\n\x00]+|$)", data[at:end]):
        if match.start() < match.end():
            stop = match.end()
            yield at + match.start(), at + stop


SESSIONS: dict[str, Callable[[bytes, bytes], Spans]] = {"smtp": smtp, "ftp": ftp, "pop3": pop3, "imap": imap, "irc": irc, "sip": sip}
"""By the name of the service."""
