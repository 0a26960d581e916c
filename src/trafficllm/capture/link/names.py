"""Names of link types (https://www.tcpdump.org/linktypes.html) and of what frames carry that are no IP (EtherTypes)."""

from __future__ import annotations

LINK_NAMES = {
    0: "NULL", 1: "ETHERNET", 3: "AX25", 6: "IEEE802_5", 7: "ARCNET_BSD", 8: "SLIP", 9: "PPP", 10: "FDDI", 12: "RAW", 14: "RAW",
    50: "PPP_HDLC", 51: "PPP_ETHER", 99: "SYMANTEC_FIREWALL", 100: "ATM_RFC1483", 101: "RAW", 104: "C_HDLC", 105: "IEEE802_11",
    107: "FRELAY", 108: "LOOP", 109: "ENC", 113: "LINUX_SLL", 114: "LTALK", 117: "PFLOG", 119: "IEEE802_11_PRISM", 122: "IP_OVER_FC",
    123: "SUNATM", 127: "IEEE802_11_RADIOTAP", 129: "ARCNET_LINUX", 130: "JUNIPER_MLPPP", 131: "JUNIPER_MLFR", 132: "JUNIPER_ES",
    133: "JUNIPER_GGSN", 134: "JUNIPER_MFR", 135: "JUNIPER_ATM2", 136: "JUNIPER_SERVICES", 137: "JUNIPER_ATM1",
    138: "APPLE_IP_OVER_IEEE1394", 139: "MTP2_WITH_PHDR", 140: "MTP2", 141: "MTP3", 142: "SCCP", 143: "DOCSIS", 144: "LINUX_IRDA",
    147: "USER0", 148: "USER1", 149: "USER2", 150: "USER3", 151: "USER4", 152: "USER5", 153: "USER6", 154: "USER7", 155: "USER8",
    156: "USER9", 157: "USER10", 158: "USER11", 159: "USER12", 160: "USER13", 161: "USER14", 162: "USER15", 163: "IEEE802_11_AVS",
    164: "JUNIPER_MONITOR", 165: "BACNET_MS_TP", 166: "PPP_PPPD", 167: "JUNIPER_PPPOE", 168: "JUNIPER_PPPOE_ATM", 169: "GPRS_LLC",
    170: "GPF_T", 171: "GPF_F", 174: "JUNIPER_PIC_PEER", 177: "LINUX_LAPD", 178: "JUNIPER_ETHER", 179: "JUNIPER_PPP",
    180: "JUNIPER_FRELAY", 181: "JUNIPER_CHDLC", 182: "MFR", 183: "JUNIPER_VP", 187: "BLUETOOTH_HCI_H4", 189: "USB_LINUX", 192: "PPI",
    194: "JUNIPER_ISM", 195: "IEEE802_15_4_WITHFCS", 196: "SITA", 197: "ERF", 200: "JUNIPER_VS", 201: "BLUETOOTH_HCI_H4_WITH_PHDR",
    202: "AX25_KISS", 203: "LAPD", 204: "PPP_WITH_DIR", 205: "C_HDLC_WITH_DIR", 206: "FRELAY_WITH_DIR", 207: "LAPB_WITH_DIR",
    209: "IPMB_LINUX", 210: "FLEXRAY", 212: "LIN", 215: "IEEE802_15_4_NONASK_PHY", 220: "USB_LINUX_MMAPPED", 224: "FC_2",
    225: "FC_2_WITH_FRAME_DELIMS", 226: "IPNET", 227: "CAN_SOCKETCAN", 228: "IPV4", 229: "IPV6", 230: "IEEE802_15_4_NOFCS", 231: "DBUS",
    233: "JUNIPER_SRX_E2E", 234: "JUNIPER_FIBRECHANNEL", 235: "DVB_CI", 236: "MUX27010", 237: "STANAG_5066_D_PDU", 238: "JUNIPER_ATM_CEMIC",
    239: "NFLOG", 240: "NETANALYZER", 241: "NETANALYZER_TRANSPARENT", 242: "IPOIB", 243: "MPEG_2_TS", 244: "NG40", 245: "NFC_LLCP",
    247: "INFINIBAND", 248: "SCTP", 249: "USBPCAP", 250: "RTAC_SERIAL", 251: "BLUETOOTH_LE_LL", 253: "NETLINK",
    254: "BLUETOOTH_LINUX_MONITOR", 255: "BLUETOOTH_BREDR_BB", 256: "BLUETOOTH_LE_LL_WITH_PHDR", 257: "PROFIBUS_DL", 258: "PKTAP",
    259: "EPON", 260: "IPMI_HPM_2", 261: "ZWAVE_R1_R2", 262: "ZWAVE_R3", 263: "WATTSTOPPER_DLM", 264: "ISO_14443", 265: "RDS",
    266: "USB_DARWIN", 268: "SDLC", 270: "LORATAP", 271: "VSOCK", 272: "NORDIC_BLE", 273: "DOCSIS31_XRA31", 274: "ETHERNET_MPACKET",
    275: "DISPLAYPORT_AUX", 276: "LINUX_SLL2", 278: "OPENVIZSLA", 279: "EBHSCR", 280: "VPP_DISPATCH", 281: "DSA_TAG_BRCM",
    282: "DSA_TAG_BRCM_PREPEND", 283: "IEEE802_15_4_TAP", 284: "DSA_TAG_DSA", 285: "DSA_TAG_EDSA", 286: "ELEE", 287: "Z_WAVE_SERIAL",
    288: "USB_2_0", 289: "ATSC_ALP", 290: "ETW",
}  # fmt: skip
"""LINKTYPE_ number -> name, as captures carry it."""

_ETHERTYPES = {
    0x0806: "ARP", 0x8035: "RARP", 0x88CC: "LLDP", 0x888E: "EAPOL", 0x8100: "VLAN", 0x88A8: "VLAN", 0x8847: "MPLS", 0x8848: "MPLS",
    0x8863: "PPPoE discovery", 0x8864: "PPPoE", 0x8809: "slow protocols (LACP)", 0x8892: "PROFINET", 0x88A4: "EtherCAT", 0x88B8: "GOOSE",
    0x88BA: "SV", 0x88E5: "MACsec", 0x88F7: "PTP", 0x8902: "CFM", 0x8906: "FCoE", 0x8914: "FIP", 0x893A: "IEEE 1905",
    0x88E1: "HomePlug AV",
    0x887B: "HomePlug", 0x9000: "loopback", 0x8137: "IPX", 0x809B: "AppleTalk", 0x80F3: "AARP", 0x22F0: "AVTP", 0x22EA: "SRP",
    0x0842: "WoL",
    0x6002: "DEC MOP", 0x6003: "DECnet", 0x8899: "Realtek loop detection", 0x88D9: "LLTD", 0x891D: "TTEthernet", 0x892F: "HSR",
    0x88FB: "PRP", 0x8880: "HIP", 0x86DD: "IPv6", 0x0800: "IPv4",
}  # fmt: skip
_LLC_BELOW = 0x0600
"""An EtherType field below this is a length (IEEE 802.3): LLC follows, spanning tree and Cisco's discovery most often."""


def link_name(link: int) -> str:
    """Name of a LINKTYPE_ number, or the number itself.

    >>> link_name(258), link_name(9999)
    ('PKTAP', '9999')
    """
    return LINK_NAMES.get(link, str(link))


def carried_name(ethertype: int) -> str:
    """What a frame that is no IP carries, by its EtherType.

    >>> carried_name(0x0806), carried_name(38), carried_name(0x9999)
    ('ARP', 'LLC (802.3)', 'EtherType 0x9999')
    """
    if ethertype < _LLC_BELOW:
        return "LLC (802.3)" if ethertype else "no EtherType"
    return _ETHERTYPES.get(ethertype, f"EtherType 0x{ethertype:04x}")
