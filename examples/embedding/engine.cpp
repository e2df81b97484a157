// A llama engine on one page, traced through driftprobe's C interface: engine MODEL.safetensors RUN [fault]
// Prefill and decode sum in different orders, as real engines do. With `fault`, decode rotates by a position too many.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>
#include "driftprobe.h"

using Row = std::vector<float>;
const int H = 32, HEADS = 4, KV_HEADS = 2, HD = 8, FF = 32, LAYERS = 2, VOCAB = 48;
const float EPS = 0.01f;

std::string file, header;  // a safetensors file: 8 bytes of length, a JSON header, then the tensors
const float* tensor(const std::string& name) {
    size_t at = header.find('"' + name + '"');
    at = header.find("\"data_offsets\":[", at) + 16;
    return reinterpret_cast<const float*>(file.data() + 8 + header.size() + std::stoul(header.substr(at)));
}

dp_run* run = nullptr;
void check(dp_status status) {
    if (status != DP_OK) { std::fprintf(stderr, "driftprobe: %s\n", dp_last_error()); std::exit(2); }
}

struct Phase { dp_phase id; bool fault; uint32_t seq_len; } phase;
const std::vector<uint32_t> TOKENS = {1, 17, 5, 44, 9, 30, 12, 3, 21};
// What an engine calls where a row is ready. On a GPU: ask dp_run_wants first, then copy the row to the host.
void trace(const char* point, int layer, int pos, const Row& row) {
    if (pos + 1 != (int)TOKENS.size() || !dp_run_wants(run, point, layer)) return;
    dp_row r = {};
    r.struct_size = sizeof r;
    r.phase = phase.id, r.prompt_id = "hello", r.point = point, r.layer = layer;
    r.step = phase.id == DP_DECODE, r.pos_id = pos, r.token_index = pos, r.token_id = TOKENS[pos];
    r.seq_len = phase.seq_len, r.kv_len = pos + 1, r.dtype = DP_F32;
    r.rank = 1, r.shape[0] = row.size(), r.data = row.data();
    check(dp_run_trace(run, &r));
}

float dot(const float* a, const float* b, int n, int step = 1) {
    float sum[4] = {};  // prefill: one running sum; decode: four
    for (int i = 0; i < n; i++) sum[phase.id == DP_DECODE ? i % 4 : 0] += a[i] * b[i * step];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}
Row linear(const std::string& name, const Row& x, int out) {
    const float* w = tensor(name + ".weight");
    Row y(out);
    for (int o = 0; o < out; o++) y[o] = dot(w + o * x.size(), x.data(), x.size());
    return y;
}
Row norm(const std::string& name, const Row& x) {
    const float *w = tensor(name + ".weight"), scale = 1 / std::sqrt(dot(x.data(), x.data(), H) / H + EPS);
    Row y(H);
    for (int i = 0; i < H; i++) y[i] = x[i] * scale * w[i];
    return y;
}
Row rope(Row x, int pos) {
    for (size_t head = 0; head < x.size(); head += HD)
        for (int i = 0; i < HD / 2; i++) {
            double angle = pos * std::pow(10000.0, -2.0 * i / HD);
            float c = std::cos(angle), s = std::sin(angle), &a = x[head + i], &b = x[head + i + HD / 2], before = a;
            a = before * c - b * s, b = b * c + before * s;
        }
    return x;
}
Row add(const Row& a, const Row& b) {
    Row y(a);
    for (size_t i = 0; i < y.size(); i++) y[i] += b[i];
    return y;
}

struct Cache { std::vector<Row> k, v; };
Row cached(const std::vector<Row>& rows, int pos) {  // [kv head][position][head_dim], as the format has it
    Row all;
    for (int head = 0; head < KV_HEADS; head++)
        for (int p = 0; p <= pos; p++) all.insert(all.end(), &rows[p][head * HD], &rows[p][head * HD] + HD);
    return all;
}
Row attention(int layer, int pos, const Row& q, const Cache& cache) {
    int n = pos + 1;
    Row scores, probs, out(H);
    for (int head = 0; head < HEADS; head++) {
        Row s(n), p(n);
        int kv = head / (HEADS / KV_HEADS) * HD;
        float top = -INFINITY, sum = 0;
        for (int j = 0; j < n; j++) s[j] = dot(&q[head * HD], &cache.k[j][kv], HD) / std::sqrt((float)HD), top = std::fmax(top, s[j]);
        for (int j = 0; j < n; j++) sum += p[j] = std::exp(s[j] - top);
        for (int j = 0; j < n; j++) p[j] /= sum;
        for (int i = 0; i < HD; i++) {
            Row column(n);
            for (int j = 0; j < n; j++) column[j] = cache.v[j][kv + i];
            out[head * HD + i] = dot(p.data(), column.data(), n);
        }
        scores.insert(scores.end(), s.begin(), s.end()), probs.insert(probs.end(), p.begin(), p.end());
    }
    trace("attn_scores", layer, pos, scores), trace("attn_probs", layer, pos, probs), trace("attn_out", layer, pos, out);
    return out;
}

void feed(int pos, std::vector<Cache>& caches) {
    auto show = [&](const char* point, int layer, Row row) { trace(point, layer, pos, row); return row; };
    const float* embedding = tensor("model.embed_tokens.weight") + TOKENS[pos] * H;
    Row x = show("embed_out", -1, Row(embedding, embedding + H));
    for (int l = 0; l < LAYERS; l++) {
        std::string in = "model.layers." + std::to_string(l) + ".", self = in + "self_attn.", mlp = in + "mlp.";
        show("residual_pre_attn", l, x);
        Row h = show("attn_norm_out", l, norm(in + "input_layernorm", x));
        Row q = show("q_pre_rope", l, linear(self + "q_proj", h, H)), k = show("k_pre_rope", l, linear(self + "k_proj", h, KV_HEADS * HD));
        Row v = show("v_proj", l, linear(self + "v_proj", h, KV_HEADS * HD));
        q = show("q_post_rope", l, rope(q, pos + (phase.fault && l == 1))), k = show("k_post_rope", l, rope(k, pos));
        caches[l].k.push_back(k), caches[l].v.push_back(v);
        show("k_cache", l, cached(caches[l].k, pos)), show("v_cache", l, cached(caches[l].v, pos));
        Row o = show("attn_proj_out", l, linear(self + "o_proj", attention(l, pos, q, caches[l]), H));
        x = show("residual_post_attn", l, add(x, o));
        h = show("ffn_norm_out", l, norm(in + "post_attention_layernorm", x));
        Row gate = show("mlp_gate", l, linear(mlp + "gate_proj", h, FF)), up = show("mlp_up", l, linear(mlp + "up_proj", h, FF));
        for (int i = 0; i < FF; i++) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
        show("mlp_act", l, gate);
        x = show("residual_post_mlp", l, add(x, show("mlp_out", l, linear(mlp + "down_proj", gate, H))));
    }
    x = show("final_norm_out", -1, norm("model.norm", show("final_norm_in", -1, x)));
    show("logits", -1, linear("lm_head", x, VOCAB));
}

int main(int argc, char** argv) {
    if (argc < 3) return std::fprintf(stderr, "usage: engine MODEL.safetensors RUN [fault]\n"), 2;
    std::ifstream stream(argv[1], std::ios::binary);
    file.assign(std::istreambuf_iterator<char>(stream), {});
    uint64_t length = 0;
    if (file.size() < 8 || (std::memcpy(&length, file.data(), 8), length > file.size() - 8)) return std::fprintf(stderr, "%s: no model\n", argv[1]), 2;
    header = file.substr(8, length);

    check(dp_run_open(argv[2], true, &run));
    check(dp_run_describe(run, R"({"engine": {"name": "one-page", "backend": "cpu"}, "mode": "as_designed",
        "contract": {"weights": "f32", "activations": "f32", "residual": "f32", "accumulate": "f32",
        "softmax": "f32", "scores": "f32", "probs": "f32", "rope_table": "f64", "kv_cache": "f32"}})"));
    check(dp_run_prompt(run, "hello", TOKENS.data(), TOKENS.size()));
    const uint32_t layers[] = {0, 1};
    const char* points[] = {"embed_out", "residual_pre_attn", "attn_norm_out", "q_pre_rope", "k_pre_rope", "v_proj", "q_post_rope",
        "k_post_rope", "k_cache", "v_cache", "attn_scores", "attn_probs", "attn_out", "attn_proj_out", "residual_post_attn",
        "ffn_norm_out", "mlp_gate", "mlp_up", "mlp_act", "mlp_out", "residual_post_mlp", "final_norm_in", "final_norm_out", "logits"};
    check(dp_run_expect(run, layers, 2, points, sizeof points / sizeof *points, 1));
    check(dp_run_environment(run, "OMP_NUM_THREADS"));
    const int n = TOKENS.size();
    std::vector<Cache> whole(LAYERS), stepwise(LAYERS);
    phase = {DP_PREFILL, false, (uint32_t)n};  // the whole prompt
    for (int pos = 0; pos < n; pos++) feed(pos, whole);
    phase = {DP_PREFILL, false, (uint32_t)n - 1};  // all but its last token, unrecorded …
    for (int pos = 0; pos + 1 < n; pos++) feed(pos, stepwise);
    phase = {DP_DECODE, argc > 3, 1};  // … and that one by decode
    feed(n - 1, stepwise);
    check(dp_run_close(run, true));
}
