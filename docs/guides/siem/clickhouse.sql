-- A table for `trafficllm analyze -f jsonl`, a row a flow and task:
--   clickhouse-client --query "INSERT INTO trafficllm_verdicts FORMAT JSONEachRow" < verdicts.jsonl
CREATE TABLE IF NOT EXISTS trafficllm_verdicts
(
    uid String,
    ts DateTime64(6, 'UTC'),
    duration Float64,
    community_id String,
    orig_h IPv6,
    orig_p UInt16,
    resp_h IPv6,
    resp_p UInt16,
    proto LowCardinality(String),
    packets UInt64,
    task LowCardinality(String),
    label LowCardinality(String),
    confidence Float64,
    probabilities Map(String, Float64),
    unknown_score Float64,
    evidence Array(Tuple(frame UInt64, field String, weight Float64)),
    file String,
    frames Array(UInt64),
    adapter LowCardinality(String),
    version LowCardinality(String),
    umbrella LowCardinality(Nullable(String)),
    umbrella_probability Nullable(Float64),
    malicious Nullable(Float64),
    labels_90 Array(String),
    source LowCardinality(String)
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (task, ts, community_id);
-- Hosts with most probably malicious flows of the last day:
SELECT orig_h, count() AS flows, avg(umbrella_probability) AS probability, topK(3)(label) AS labels
FROM trafficllm_verdicts
WHERE umbrella = 'malicious' AND ts > now() - INTERVAL 1 DAY
GROUP BY orig_h
ORDER BY flows DESC
LIMIT 20;
