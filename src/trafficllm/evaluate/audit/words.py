"""The audit's verdict: its report in sentences that a person who never saw one understands."""

from __future__ import annotations

from trafficllm.evaluate.audit.results import AuditFacts, AuditFinding

WORDS = {
    "same_flow": "packets of one flow lie in several groups",
    "same_session": "flows between the same two hosts lie in several groups and tell the answer",
    "duplicate": "equal masked contents lie in several groups",
    "address": "addresses alone tell the answer",
    "time": "the time of capture alone tells the answer",
    "sequence": "sequence numbers, IP identification or TCP timestamps alone tell the answer",
    "ttl": "the TTL alone tells the answer",
    "link_type": "the link type or VLAN alone tells the answer",
    "padding": "padding behind the IP packet alone tells the answer",
    "truncation": "whether packets were captured whole alone tells the answer",
}
_GAP = 0.1


def finding_line(finding: AuditFinding) -> str:
    """One finding in words."""
    if finding.question == "split":
        remark = "the split keeps them apart" if finding.hidden else "and on both sides of the split"
        return f"{WORDS[finding.kind]} ({finding.score:.1%} of flows), {remark}"
    question = "the umbrella question" if finding.question == "umbrella" else "the label"
    remark = "hidden by the masks" if finding.hidden else "and the masks do not hide it"
    return f"{WORDS[finding.kind]} ({finding.field}: macro-F1 {finding.score:.2f} on {question}), {remark}"


def _packets(report: AuditFacts) -> str:
    gap = report.leaky - report.honest
    text = f"single packets score {report.leaky:.2f} raw and split at random, {report.honest:.2f} masked and split by group"
    return text + (": published per-packet figures on such data mean little" if gap > _GAP else "")


def _measurable(report: AuditFacts) -> str:
    thin, total = len(report.not_measurable), len(report.classes)
    if not thin:
        return f"all {total} classes are measurable"
    return f"{total - thin} of {total} classes are measurable, the others have no group or fewer than 10 unique contents to judge"


def verdict(report: AuditFacts) -> str:
    """What is wrong with the data, and what score may be believed."""
    lines = [finding_line(finding) for finding in report.findings]
    open_ = sorted({f.kind for f in report.findings if not f.hidden})
    if open_:
        lines.append(f"a model can use {', '.join(open_)}: repair this before you believe a score")
    else:
        lines.append("no leak that a model could use was found")
    if report.not_checked:
        lines.append(f"not checked, for want of the captures: {', '.join(report.not_checked)}")
    if report.duplicates.conflicting > 0:
        lines.append(f"equal contents carry different labels: no model can pass accuracy {report.duplicates.ceiling:.3f}")
    lines += [_packets(report), _measurable(report)]
    if report.forge.relies_on_identifiers:
        lines.append(f"the best tree relies on identifiers (forge test {report.forge.delta:+.2f})")
    honest = {name: row for name, row in report.baselines.items() if name != "identifier_probe"}
    best, row = max(honest.items(), key=lambda item: item[1].macro_f1)
    low, high = row.ci95
    lines.append(f"honest score to beat: {best} {row.macro_f1:.3f} ({low:.3f} to {high:.3f}), split {row.split}, masks {row.mask}")
    return ". ".join(line[0].upper() + line[1:] for line in lines) + "."
