"""A laboratory of our own: real programs talk on a network of name spaces, and what one host sees is written down.

    sudo python recipes/background/laboratory.py --out recipes/background/laboratory [--sessions printing torrents]

The hosts hang on a switch in user space that carries their frames with the delay of a home's or a provider's line. Everything runs in
network, mount and process name spaces of its own: nothing reaches the machine's network, files or daemons. Debian packages: README.md.
Two runs never give the same bytes (ports, identifiers, times), so the captures that the package was cut from are kept beside this file.
"""

# ruff: noqa: E501 - command lines of other programs
from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gzip
import heapq
import os
import random
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import build

PROGRAMS = Path(__file__).resolve().parent / "programs"
GATEWAY, CLIENT = "gateway", "client"
HOSTS = {
    # name: last byte of address and MAC, one-way delay in ms
    "gateway": (1, 0.4), "client": (20, 0.2), "desktop": (21, 0.5), "printer": (30, 1.1), "television": (31, 2.0),
    "plant": (40, 0.6), "server": (50, 11.0), "cloud": (51, 23.0), "peer": (52, 34.0), "peer2": (53, 8.0),
}  # fmt: skip
NET = "192.168.77"
INSIDE = "TRAFFICLLM_LABORATORY"


@dataclass(slots=True)
class Switch:
    """Frames from port to port with a delay; what the client's port carries is kept."""

    ports: dict[str, socket.socket] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)
    places: dict[bytes, str] = field(default_factory=dict)
    frames: list[tuple[float, bytes]] = field(default_factory=list)
    _waiting: list[tuple[float, int, str, bytes]] = field(default_factory=list)
    _count: int = 0

    def add(self, name: str, interface: str, delay: float) -> None:
        """A port for one host, `delay` seconds away."""
        port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        port.bind((interface, 0))
        port.setblocking(False)
        self.ports[name], self.delays[name] = port, delay

    def run(self) -> None:
        """Carry frames for ever; meant for a thread of its own."""
        names = {port.fileno(): name for name, port in self.ports.items()}
        while True:
            until = max(0.0, self._waiting[0][0] - time.time()) if self._waiting else 0.05
            for number in select.select(list(names), [], [], until)[0]:
                self._take(names[number])
            while self._waiting and self._waiting[0][0] <= time.time():
                _, _, name, frame = heapq.heappop(self._waiting)
                self._give(name, frame)

    def _take(self, name: str) -> None:
        for _ in range(64):
            try:
                frame, about = self.ports[name].recvfrom(65_536)
            except (BlockingIOError, OSError):
                return
            if about[2] == socket.PACKET_OUTGOING:
                continue
            if name == CLIENT:
                self.frames.append((time.time(), frame))
            self.places[frame[6:12]] = name
            to = self.places.get(frame[:6])
            for other in [to] if to else [port for port in self.ports if port != name]:
                if other == name:
                    continue
                away = (self.delays[name] + self.delays[other]) * random.lognormvariate(0, 0.15)
                self._count += 1
                heapq.heappush(self._waiting, (time.time() + away, self._count, other, frame))

    def _give(self, name: str, frame: bytes) -> None:
        if name == CLIENT:
            self.frames.append((time.time(), frame))
        with contextlib.suppress(OSError):
            self.ports[name].send(frame)


@dataclass(slots=True)
class Laboratory:
    """Hosts as name spaces, and the programs that run on them."""

    switch: Switch
    scratch: Path
    holders: dict[str, int] = field(default_factory=dict)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def enter(self, host: str) -> list[str]:
        """The words before a command that runs on a host."""
        return ["nsenter", "-t", str(self.holders[host]), "-n", "-m", "-u", "--"]

    def run(self, host: str, command: str, seconds: float = 20.0) -> str:
        """One command line on a host, at most so long; what it printed."""
        done = subprocess.run(
            [*self.enter(host), "timeout", str(seconds), "sh", "-c", command],
            capture_output=True,
            check=False,
            cwd=self.scratch,
            start_new_session=True,
        )
        said = (done.stdout + done.stderr).decode(errors="replace")
        print(f"    {host}: {command[:90]} -> {done.returncode} {said.strip().splitlines()[-1][:90] if said.strip() else ''}", flush=True)
        return said

    def start(self, host: str, command: str, wait: float = 0.6) -> None:
        """A program that goes on running on a host until the session ends."""
        log = (self.scratch / f"{host}-{len(self.running)}.log").open("wb")
        words = [*self.enter(host), "sh", "-c", f"exec {command}"]
        self.running.append(
            subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.scratch, start_new_session=True)
        )
        time.sleep(wait)
        if self.running[-1].poll() is not None:
            print(f"    {host}: {command[:80]} ended: {Path(log.name).read_text(errors='replace')[-200:]}", flush=True)

    def program(self, host: str, name: str, *words: str, background: bool = False, seconds: float = 40.0) -> None:
        """A program of ours below `programs`, with the interpreter that has its libraries."""
        command = " ".join([os.environ.get("LABORATORY_PYTHON", sys.executable), str(PROGRAMS / name), *words])
        if background:
            self.start(host, command, 1.5)
        else:
            self.run(host, command, seconds)

    def file(self, name: str, text: str) -> Path:
        """A configuration file in the scratch folder."""
        path = self.scratch / name
        path.write_text(text, encoding="utf-8")
        return path

    def stop(self) -> None:
        """End what runs."""
        for process in self.running:
            process.terminate()
        time.sleep(0.5)
        for process in self.running:
            process.kill()
        self.running.clear()


def address(host: str) -> str:
    """The IPv4 address of a host."""
    return f"{NET}.{HOSTS[host][0]}"


def _sh(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@contextlib.contextmanager
def laboratory(scratch: Path) -> Iterator[Laboratory]:
    """All hosts up and connected."""
    switch, lab = Switch(), Laboratory(Switch(), scratch)
    lab.switch = switch
    for name, (number, delay) in HOSTS.items():
        holder = subprocess.Popen(["unshare", "-n", "-m", "-u", "sh", "-c", "echo ready; exec sleep 100000"], stdout=subprocess.PIPE)
        assert holder.stdout is not None
        holder.stdout.readline()
        lab.holders[name] = holder.pid
        _sh("ip", "link", "add", f"p{number}", "type", "veth", "peer", "name", f"e{number}")
        _sh("ip", "link", "set", f"e{number}", "netns", str(holder.pid), "name", "eth0", "address", f"5e:11:77:00:00:{number:02x}")
        _sh("ip", "link", "set", f"p{number}", "up", "promisc", "on")
        _sh("sysctl", "-qw", f"net.ipv6.conf.p{number}.disable_ipv6=1")
        hosts = "\n".join([f"127.0.0.1 localhost {name}"])
        within = (
            f"hostname {name}; ip link set lo up; ethtool -K eth0 tx off tso off gso off gro off >/dev/null 2>&1; ip link set eth0 up; "
            f"ip addr add {NET}.{number}/24 broadcast + dev eth0; ip route add default via {NET}.1 || true; "
            "ip route add 224.0.0.0/4 dev eth0; mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp; mkdir -p /run/dbus; "
            "mount -t tmpfs tmpfs /var/lib; mkdir -p /var/lib/samba/private /var/lib/misc /var/lib/chrony /var/lib/snmp; "
            f"printf 'nameserver {NET}.1\\nsearch home.arpa\\n' > /run/resolv.conf; mount --bind /run/resolv.conf /etc/resolv.conf; "
            f"printf '{hosts}\\n' > /run/hosts; mount --bind /run/hosts /etc/hosts"
        )
        subprocess.run([*lab.enter(name), "sh", "-c", within], check=False, capture_output=True)
        switch.add(name, f"p{number}", delay / 1000)
    threading.Thread(target=switch.run, daemon=True).start()
    time.sleep(2.5)
    try:
        yield lab
    finally:
        lab.stop()


def names(lab: Laboratory) -> None:
    """Name service by unicast, LLMNR and mDNS."""
    conf = lab.file("dnsmasq.conf", DNSMASQ)
    lab.start(GATEWAY, f"dnsmasq -k -C {conf}")
    for host in (CLIENT, "desktop"):
        lab.start(host, "dbus-daemon --system --nofork --nopidfile", 0.4)
        lab.run(host, "mkdir -p /run/systemd/resolve; chown systemd-resolve:systemd-resolve /run/systemd/resolve")
        lab.start(host, "/lib/systemd/systemd-resolved", 1.5)
        lab.run(host, f"resolvectl llmnr eth0 yes; resolvectl dns eth0 {address(GATEWAY)}; resolvectl default-route eth0 yes")
    for name in ("desktop", "fileserver", "wpad"):
        lab.run(CLIENT, f"resolvectl --protocol=llmnr query {name}", 6)
    lab.run("desktop", "resolvectl --protocol=llmnr query client", 6)
    for query in ("www.example.org", "updates.example.net", "-t AAAA www.example.org", "-t TXT example.org", "-x 192.168.77.30", "nothere.example.com",
                  "-t MX example.org", "-t HTTPS www.example.org", "+tcp www.example.org"):  # fmt: skip
        lab.run(CLIENT, f"dig +tries=1 +time=2 @{address(GATEWAY)} {query}", 5)
    _avahi(lab, "printer", "_ipp._tcp", 631)
    _avahi(lab, "television", "_googlecast._tcp", 8009)
    _avahi(lab, CLIENT, "_workstation._tcp", 9)
    lab.run(CLIENT, "avahi-browse -a -t -r", 8)
    lab.run(CLIENT, "avahi-resolve -n printer.local; avahi-resolve -n television.local", 8)


def _avahi(lab: Laboratory, host: str, kind: str, port: int) -> None:
    if not any(host in " ".join(map(str, process.args)) for process in lab.running) or host != CLIENT:
        lab.start(host, "dbus-daemon --system --nofork --nopidfile", 0.4)
    services = (
        f'<service-group><name replace-wildcards="yes">%h</name><service><type>{kind}</type><port>{port}</port></service></service-group>'
    )
    lab.file(f"{host}.service", services)
    lab.run(host, f"mkdir -p /run/svc && cp {lab.scratch}/{host}.service /run/svc/ && mount --bind /run/svc /etc/avahi/services")
    lab.start(host, "avahi-daemon --no-drop-root --no-rlimits", 1.5)


def discovery(lab: Laboratory) -> None:
    """SSDP with its descriptions, WS-Discovery, NetBIOS."""
    media = lab.file(
        "minidlna.conf",
        "port=8200\nnetwork_interface=eth0\nfriendly_name=television\nmedia_dir=/tmp\ndb_dir=/tmp\nlog_dir=/tmp\nnotify_interval=8\n",
    )
    lab.start("television", f"minidlnad -S -f {media} -P /tmp/m.pid", 2)
    lab.start(CLIENT, "minissdpd -d -i eth0", 0.5)
    lab.run(CLIENT, f"upnpc -d -l 2>&1 | tail -1; curl -s http://{address('television')}:8200/rootDesc.xml | tail -c 60", 12)
    lab.start("desktop", "wsdd -i eth0 -n desktop -w HOME", 1.0)
    lab.start("printer", "wsdd -i eth0 -n printer -w HOME", 1.0)
    lab.start(CLIENT, "wsdd -i eth0 -D -l 3390 -n client", 6.0)
    smb = lab.file("smb.conf", SMB)
    for host in (CLIENT, "desktop"):
        lab.run(host, "mkdir -p /run/samba /var/lib/samba/private /tmp/share; head -c 120000 /dev/urandom > /tmp/share/minutes.odt")
        lab.start(host, f"nmbd -F --no-process-group -s {smb}", 1.0)
    lab.run(
        CLIENT,
        f"nmblookup -s {smb} desktop; nmblookup -s {smb} -A {address('desktop')}; nmblookup -s {smb} -M HOME; nmblookup -s {smb} nobody",
        25,
    )
    time.sleep(6)


def printing(lab: Laboratory) -> None:
    """A printer found, asked and used: BJNP, ENPC, SNMP, IPP."""
    lab.run("printer", "mkdir -p /tmp/spool")
    _avahi(lab, "printer", "_http._tcp", 80)
    lab.start("printer", "ippeveprinter -r off -p 8631 -d /tmp/spool -M Maker -m Model Office", 1.5)
    snmp = lab.file(
        "snmpd.conf", "rocommunity public\nview all included .1\nsysName printer\nsysDescr laser printer\nagentAddress udp:161\n"
    )
    lab.start("printer", f"snmpd -f -Lo -C -c {snmp}", 1.0)
    lab.run(CLIENT, "scanimage -L", 25)
    for asked in ("1.3.6.1.2.1.1.1.0", "1.3.6.1.2.1.1.5.0", "1.3.6.1.2.1.2.2", "1.3.6.1.2.1.25.3.2.1.3"):
        verb = "snmpget" if asked.endswith(".0") else "snmpwalk"
        lab.run(CLIENT, f"{verb} -v2c -c public -t 1 -r 1 {address('printer')} {asked}", 6)
    lab.run(
        CLIENT,
        f"printf 'a page of text\\n%.0s' $(seq 400) > /tmp/page.txt; ipptool -tv ipp://{address('printer')}:8631/ipp/print get-printer-attributes.test",
        10,
    )
    lab.run(CLIENT, f"ipptool -tv -f /tmp/page.txt ipp://{address('printer')}:8631/ipp/print print-job.test", 10)
    lab.run(CLIENT, f"ipptool -tv ipp://{address('printer')}:8631/ipp/print get-jobs.test", 10)


def gateway(lab: Laboratory) -> None:
    """A host that comes up: DHCP, router advertisements, DHCPv6, NTP, port mappings, ping."""
    lab.run(GATEWAY, "ip -6 addr add fd77::1/64 dev eth0; sysctl -qw net.ipv6.conf.all.forwarding=1")
    conf = lab.file(
        "dhcp.conf",
        DNSMASQ + f"dhcp-range={NET}.100,{NET}.150,10m\nenable-ra\ndhcp-range=fd77::100,fd77::1ff,64,10m\ndhcp-leasefile=/tmp/leases\n",
    )
    lab.start(GATEWAY, f"dnsmasq -k -C {conf}", 1.0)
    lab.run(
        CLIENT,
        "mkdir -p /var/lib/dhcp; dhclient -4 -1 -v -sf /bin/true -lf /tmp/l4 -pf /tmp/p4 eth0; dhclient -6 -1 -v -sf /bin/true -lf /tmp/l6 -pf /tmp/p6 eth0; dhclient -4 -r -sf /bin/true -lf /tmp/l4 -pf /tmp/p4 eth0",
        25,
    )
    clock = lab.file("chrony-server.conf", "local stratum 3\nallow\npidfile /tmp/c.pid\nbindcmdaddress /tmp/c.sock\ncmdport 0\n")
    lab.start("server", f"chronyd -d -x -u root -f {clock}", 1.0)
    asks = lab.file(
        "chrony-client.conf",
        f"server {address('server')} iburst minpoll 2 maxpoll 2\npidfile /tmp/c.pid\ncmdport 0\nbindcmdaddress /tmp/c.sock\n",
    )
    lab.start(CLIENT, f"chronyd -d -x -u root -f {asks}", 12.0)
    lab.program(GATEWAY, "port_mapping.py", background=True)
    lab.run(CLIENT, f"natpmpc -g {address(GATEWAY)} -a 5000 5000 udp 60; natpmpc -g {address(GATEWAY)} -a 6881 6881 tcp 60", 12)
    lab.run(
        CLIENT,
        f"ping -c 4 -i .3 {address(GATEWAY)}; ping -c 3 -i .3 fd77::1; ping -c 2 -W 1 {NET}.99; ping -c 3 -i .5 {address('cloud')}",
        20,
    )


def files(lab: Laboratory) -> None:
    """SMB, FTP and rsync between two machines of a house."""
    smb = lab.file("smb.conf", SMB)
    lab.run(
        "desktop",
        "mkdir -p /run/samba /var/lib/samba/private /tmp/share; chmod 777 /tmp/share; head -c 60000 /dev/urandom > /tmp/share/minutes.odt; head -c 30000 /dev/zero > /tmp/share/plan.txt",
    )
    lab.start("desktop", f"smbd -F --no-process-group -s {smb}", 2.0)
    where = f"//{address('desktop')}"
    lab.run(
        CLIENT,
        f"smbclient -N -L {where}; smbclient -N {where}/share -c 'ls; get minutes.odt /tmp/m; put /etc/services notes.txt; del notes.txt'",
        15,
    )
    lab.run("desktop", "mkdir -p /run/vsftpd/empty /tmp/ftp; cp /tmp/share/* /tmp/ftp; chmod 555 /tmp/ftp")
    ftp = lab.file(
        "vsftpd.conf",
        "listen=YES\nanonymous_enable=YES\nanon_root=/tmp/ftp\nbackground=NO\nseccomp_sandbox=NO\nsecure_chroot_dir=/run/vsftpd/empty\nno_anon_password=YES\n",
    )
    lab.run("desktop", f"cp {ftp} /tmp/vsftpd.conf; chown root /tmp/vsftpd.conf")
    lab.start("desktop", "vsftpd /tmp/vsftpd.conf", 1.0)
    lab.run(
        CLIENT,
        f"curl -s ftp://{address('desktop')}/; curl -s -o /tmp/a ftp://{address('desktop')}/minutes.odt; curl -s -o /tmp/b ftp://{address('desktop')}/plan.txt",
        15,
    )
    sync = lab.file("rsyncd.conf", "use chroot = no\n[share]\npath = /tmp/share\nread only = yes\n")
    lab.start("desktop", f"rsync --daemon --no-detach --config={sync}", 1.0)
    lab.run(CLIENT, f"rsync -a rsync://{address('desktop')}/share /tmp/copy; rsync rsync://{address('desktop')}/share", 10)


def web(lab: Laboratory) -> None:
    """Pages, downloads by parts, updates, polling, in clear and by TLS."""
    lab.run("server", "mkdir -p /tmp/www/pool /run/nginx /var/lib/nginx; for k in 1 2 3 4 5 6; do head -c $((k*9000)) /dev/urandom > /tmp/www/pool/part$k.bin; done; "
            "printf '<html>%s</html>' \"$(seq 900)\" > /tmp/www/index.html; printf '{\"ok\":true,\"next\":30}' > /tmp/www/status.json; "
            "openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=www.example.org -keyout /tmp/key.pem -out /tmp/cert.pem")  # fmt: skip
    conf = lab.file("nginx.conf", NGINX)
    lab.start("server", f"nginx -p /tmp -c {conf}", 1.0)
    at = address("server")
    agents = (
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        "Debian APT-HTTP/1.3 (2.6.1)",
        "curl/7.88.1",
        "Wget/1.21.3",
    )
    for k, agent in enumerate(agents):
        name = ("www.example.org", "deb.example.net", "api.example.com", "files.example.org")[k]
        lab.run(
            CLIENT,
            f"curl -s -A '{agent}' -H 'Host: {name}' http://{at}/ http://{at}/pool/part{k + 1}.bin http://{at}/missing -o /tmp/a -o /tmp/b -o /tmp/c",
        )
        lab.run(
            CLIENT,
            f"curl -s -A '{agent}' -H 'Host: {name}' -r 1000-6000 http://{at}/pool/part{k + 2}.bin -o /tmp/a; curl -sI -H 'Host: {name}' http://{at}/",
        )
    for _ in range(6):
        lab.run(
            CLIENT,
            f"curl -s -H 'Host: telemetry.example.com' http://{at}/status.json; curl -s -X POST -d '{{\"uptime\":{random.randrange(10**6)}}}' -H 'Host: telemetry.example.com' http://{at}/status.json",
        )
        time.sleep(0.4)
    for flags in ("--http1.1", "--http2", "--http2 --tls-max 1.2", "--http1.1 --tls-max 1.2"):
        for path in ("", "pool/part3.bin", "status.json"):
            lab.run(CLIENT, f"curl -sk {flags} --resolve www.example.org:443:{at} https://www.example.org/{path} -o /tmp/a")
    lab.run(CLIENT, f"wget -q --no-check-certificate -r -l 1 -P /tmp/w http://{at}/; wget -q -O /tmp/z http://{at}/pool/part6.bin")


def torrents(lab: Laboratory) -> None:
    """File sharing among three hosts: DHT, local discovery, peers by TCP and by uTP."""
    lab.program("peer", "torrents.py", "seed", address("peer"), background=True)
    lab.program("peer2", "torrents.py", "leech", address("peer2"), address("peer"), background=True)
    lab.program(CLIENT, "torrents.py", "leech", address(CLIENT), address("peer"), address("peer2"), seconds=45)


def industrial(lab: Laboratory) -> None:
    """A plant asked for its values: Modbus, BACnet, S7, IEC 104, OPC UA."""
    lab.program("plant", "industrial.py", "serve", address("plant"), background=True)
    time.sleep(4)
    lab.program(CLIENT, "industrial.py", "ask", address("plant"), address(CLIENT), seconds=60)


def things(lab: Laboratory) -> None:
    """Sensors: MQTT, CoAP, syslog."""
    broker = lab.file("mosquitto.conf", "listener 1883 0.0.0.0\nallow_anonymous true\npersistence false\n")
    lab.start("server", f"mosquitto -c {broker}", 1.0)
    lab.run(
        CLIENT,
        f"(mosquitto_sub -h {address('server')} -t 'home/#' -W 8 &) ; sleep 1; for k in 1 2 3 4 5; do mosquitto_pub -h {address('server')} -t home/kitchen/temperature -m 21.$k; mosquitto_pub -h {address('server')} -q 1 -t home/hall/humidity -m 4$k; sleep .5; done; sleep 4",
        20,
    )
    lab.start("plant", "coap-server-notls -A 0.0.0.0 -v 0", 1.0)
    lab.run(
        CLIENT,
        f"for k in 1 2 3; do coap-client-notls -m get coap://{address('plant')}/.well-known/core; coap-client-notls -m get coap://{address('plant')}/time; coap-client-notls -m put -e 12:0{{k}} coap://{address('plant')}/time; done",
        20,
    )
    lab.run(
        CLIENT,
        f'for k in 1 2 3 4 5; do logger -n {address("server")} -P 514 -d -t sensor "reading $k ok"; sleep .2; done; for k in 1 2; do logger -n {address("server")} -P 514 -T -t sensor "reading $k"; done',
        12,
    )


def office(lab: Laboratory) -> None:
    """Directory, Kerberos, RADIUS, mail, chat and shells of a small office."""
    lab.run("server", "mkdir -p /tmp/ldap /var/lib/ldap /run/slapd")
    ldap = lab.file("slapd.conf", LDAP)
    lab.start("server", f"slapd -d 0 -f {ldap} -h ldap:///", 1.5)
    who, at = "-D cn=admin,dc=example,dc=org -w secret", address("server")
    entries = lab.file("people.ldif", PEOPLE)
    lab.run(
        CLIENT,
        f"ldapadd -x -H ldap://{at} {who} -f {entries}; for k in ann bob ann; do ldapsearch -x -H ldap://{at} -b dc=example,dc=org uid=$k; done; ldapwhoami -x -H ldap://{at} {who}",
        12,
    )
    lab.file("krb5.conf", KRB5.format(at=at))
    for host in ("server", CLIENT):
        lab.run(host, f"cp {lab.scratch}/krb5.conf /run/krb5.conf; mount --bind /run/krb5.conf /etc/krb5.conf")
    lab.run(
        "server",
        "mkdir -p /var/lib/krb5kdc; printf 'master\\nmaster\\n' | kdb5_util create -s -r EXAMPLE.ORG; kadmin.local -q 'addprinc -pw secret ann'; kadmin.local -q 'addprinc -randkey host/server'",
        25,
    )
    lab.start("server", "krb5kdc -n", 1.0)
    lab.run(CLIENT, "for k in 1 2 3; do echo secret | kinit ann; kvno host/server; done; echo wrong | kinit ann; klist", 15)
    lab.program("server", "mail.py", "serve", background=True)
    lab.program(CLIENT, "mail.py", "send", at, seconds=20)
    chat = lab.file(
        "ngircd.conf",
        "[Global]\nName=irc.example.org\nInfo=office\nListen=0.0.0.0\nPorts=6667\nServerUID=root\nServerGID=root\n[Options]\nDNS=no\nIdent=no\nPAM=no\n",
    )
    lab.start("server", f"ngircd -n -f {chat}", 1.0)
    for nick in ("ann", "bob", "eve"):
        lab.run(
            CLIENT,
            f"(printf 'NICK {nick}\\r\\nUSER {nick} 0 * :{nick}\\r\\n'; sleep 1; printf 'JOIN #office\\r\\n'; sleep 1; printf 'PRIVMSG #office :lunch at noon?\\r\\nPING x\\r\\n'; sleep 1; printf 'QUIT :bye\\r\\n') | timeout 6 telnet {at} 6667",
            10,
        )
    lab.run(
        "server",
        "mkdir -p /run/sshd /tmp/ssh; ssh-keygen -q -t ed25519 -N '' -f /tmp/ssh/host; ssh-keygen -q -t ed25519 -N '' -f /tmp/ssh/user; cat /tmp/ssh/user.pub > /tmp/ssh/keys; chmod 600 /tmp/ssh/*",
    )
    shutil.copy(f"/proc/{lab.holders['server']}/root/tmp/ssh/user", lab.scratch / "user_key")
    lab.start(
        "server",
        "/usr/sbin/sshd -D -h /tmp/ssh/host -o AuthorizedKeysFile=/tmp/ssh/keys -o StrictModes=no -o PermitRootLogin=yes -o UsePAM=no -f /dev/null",
        1.0,
    )
    key = f"-i {lab.scratch}/user_key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    lab.run(
        CLIENT,
        f"chmod 600 {lab.scratch}/user_key; ssh {key} root@{at} 'ls /etc; uptime'; ssh {key} root@{at} 'for k in 1 2 3 4 5; do date; sleep .3; done'; scp {key} root@{at}:/etc/services /tmp/s; ssh -o BatchMode=yes -o StrictHostKeyChecking=no nobody@{at} true",
        25,
    )


SESSIONS: dict[str, Callable[[Laboratory], None]] = {
    function.__name__: function for function in (names, discovery, printing, gateway, files, web, torrents, industrial, things, office)
}
DNSMASQ = f"""no-resolv
no-hosts
bind-interfaces
interface=eth0
user=root
pid-file=/tmp/dnsmasq.pid
address=/www.example.org/{NET}.50
address=/updates.example.net/{NET}.51
mx-host=example.org,mail.example.org,10
txt-record=example.org,"v=spf1 -all"
ptr-record=30.77.168.192.in-addr.arpa,printer.home.arpa
"""
SMB = """[global]
workgroup = HOME
map to guest = bad user
state directory = /var/lib/samba
private dir = /var/lib/samba/private
lock directory = /run/samba
pid directory = /run/samba
cache directory = /run/samba
log file = /tmp/smb.log
[share]
path = /tmp/share
guest ok = yes
read only = no
force user = root
"""
NGINX = """daemon off; user root; pid /tmp/nginx.pid; error_log /tmp/e.log;
events {}
http {
  access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server { listen 80; listen 443 ssl http2; ssl_certificate /tmp/cert.pem; ssl_certificate_key /tmp/key.pem; root /tmp/www; autoindex on;
    error_page 405 =200 $uri; }
}
"""
LDAP = """include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile /tmp/slapd.pid
database mdb
suffix "dc=example,dc=org"
rootdn "cn=admin,dc=example,dc=org"
rootpw secret
directory /tmp/ldap
"""
PEOPLE = """dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: example
dc: example

dn: uid=ann,dc=example,dc=org
objectClass: inetOrgPerson
cn: Ann
sn: Example
uid: ann
mail: ann@example.org
"""
KRB5 = """[libdefaults]
default_realm = EXAMPLE.ORG
dns_lookup_kdc = false
dns_canonicalize_hostname = false
[realms]
EXAMPLE.ORG = {{ kdc = {at} }}
"""


MOST = 100
"""Frames kept of a conversation: the package takes fewer."""


def conversation(frame: bytes) -> object:
    """What frames of one conversation have in common: addresses and ports in either order (IPv4), else addresses alone."""
    if frame[12:14] != b"\x08\x00":
        return frozenset((frame[:6], frame[6:12]))
    ports = 14 + 4 * (frame[14] & 15)
    return frame[23], frozenset(((frame[26:30], frame[ports : ports + 2]), (frame[30:34], frame[ports + 2 : ports + 4])))


def save(path: Path, frames: Sequence[tuple[float, bytes]]) -> None:
    """The first frames of each conversation as a classic pcap file of Ethernet, packed by gzip."""
    counts: Counter[object] = Counter()
    kept: list[build.Frame] = []
    for when, frame in sorted(frames, key=lambda pair: pair[0]):
        key = conversation(frame)
        counts[key] += 1
        if counts[key] <= MOST:
            kept.append((int(when * 1e6) * 1000, frame, len(frame)))
    plain = path.with_suffix("")
    build.write(plain, kept, 1)
    path.write_bytes(gzip.compress(plain.read_bytes(), 9, mtime=0))
    plain.unlink()


def main() -> None:
    """Run the sessions one after another, each in a laboratory of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sessions", nargs="+", choices=sorted(SESSIONS), default=list(SESSIONS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if os.environ.get(INSIDE) is None:
        for name in options.sessions:
            words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--ipc"]
            command = [*words, sys.executable, str(Path(__file__).resolve()), "--out", str(options.out.resolve()), "--sessions", name]
            subprocess.run(command, check=True, env=os.environ | {INSIDE: "1"})
        return
    name = options.sessions[0]
    faulthandler.dump_traceback_later(150, exit=True)
    print(f"{name}: {(SESSIONS[name].__doc__ or '').splitlines()[0]}", flush=True)
    scratch = Path("/var/tmp") / f"laboratory-{name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    with laboratory(scratch) as lab:
        lab.switch.frames.clear()
        SESSIONS[name](lab)
        frames = list(lab.switch.frames)
    save(options.out / f"{name}.pcap.gz", frames)
    print(f"  {len(frames)} frames, {(options.out / f'{name}.pcap.gz').stat().st_size:,} bytes", flush=True)
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
