"""One peer of a small swarm (libtorrent): `torrents.py seed|leech OWN [PEER ...]`. All peers make the same file from the same numbers."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

import libtorrent as lt

ROLE, OWN, PEERS = sys.argv[1], sys.argv[2], sys.argv[3:]
place = Path(tempfile.mkdtemp())
(place / "album.bin").write_bytes(random.Random(7).randbytes(900_000))
storage = lt.file_storage()
lt.add_files(storage, str(place / "album.bin"))
torrent = lt.create_torrent(storage, 16_384)
lt.set_piece_hashes(torrent, str(place))
info = lt.torrent_info(torrent.generate())
if ROLE == "leech":
    (place / "album.bin").unlink()
session = lt.session({
    "listen_interfaces": f"{OWN}:6881", "enable_dht": True, "enable_lsd": True, "enable_upnp": True, "enable_natpmp": True,
    "dht_restrict_routing_ips": False, "dht_restrict_search_ips": False, "dht_bootstrap_nodes": ",".join(f"{peer}:6881" for peer in PEERS),
    "download_rate_limit": 90_000, "allow_multiple_connections_per_ip": True,
})  # fmt: skip
handle = session.add_torrent({"ti": info, "save_path": str(place)})
for peer in PEERS:
    session.add_dht_node((peer, 6881))
end = time.time() + (600 if ROLE == "seed" else 35)
while time.time() < end:
    for peer in PEERS:
        handle.connect_peer((peer, 6881))
    handle.force_dht_announce()
    session.dht_get_peers(info.info_hash())
    time.sleep(4)
print(handle.status().progress)
