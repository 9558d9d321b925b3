/* The initiator's command line. */
#include <string.h>
#include <unistd.h>

#include "cli/initiator/initiator.h"
#include "comch/path.h"
#include "core/options.h"
#include "fabric/link.h"

static const char *const strategies[] = {
    "read_throughput_test",
    "write_throughput_test",
    "read_write_data_validity_test",
    "read_only_data_validity_test",
    NULL,
};
static const char *const operations[] = {"read", "write", NULL};
static const char *const patterns[] = {"seq", "rand", NULL};

static const char examples[] =
    "Examples\n"
    "  sluice-initiator -d tcp --operation write --run-limit-operation-count 1000\n"
    "  sluice-initiator -d tcp --operation read --pattern rand --transaction-count 32 --run-time "
    "10s --cpu 0 --cpu 1\n"
    "  sluice-initiator -d tcp --execution-strategy read_write_data_validity_test "
    "--storage-plain-content disk.img\n";

struct parsed {
    unsigned operation, strategy, pattern;
    bool strategy_given, operation_given, read_percent_given, io_given;
    uint64_t cpus[WORKERS_MAX];
    unsigned cpu_count;
    uint64_t blocks_per_io;
};

/* Where the table's rows put their values; a program parses once. */
static struct initiator_config c;
static struct parsed p;

static int usage(const char *text)
{
    fprintf(stderr, "sluice-initiator: %s\n", text);
    return 2;
}

static int finish(struct initiator_config *config, const struct parsed *parsed)
{
    char device[SL_ADDRESS_BYTES_MAX], error[1024];
    const struct sl_link_ops *link;
    if (sl_link_resolve_device(config->device, &link, device, sizeof(device), error,
                               sizeof(error)) < 0) {
        fprintf(stderr, "sluice-initiator: --device: %s\n", error);
        return 2;
    }
    if (parsed->strategy_given && parsed->operation_given)
        return usage("give --operation or --execution-strategy, not both");
    config->strategy =
        parsed->strategy_given ? (enum strategy)parsed->strategy : (enum strategy)parsed->operation;
    config->strategy_name = strategies[config->strategy];
    if (config->strategy >= STRATEGY_READ_WRITE_VALIDITY && parsed->read_percent_given)
        return usage("--read-percent is for the throughput tests");
    if (!parsed->read_percent_given)
        config->read_percent = config->strategy == STRATEGY_READ_THROUGHPUT ? 100 : 0;
    if (config->content_file != NULL && config->strategy < STRATEGY_READ_WRITE_VALIDITY)
        return usage("--storage-plain-content is for the data validity tests");
    if (config->strategy == STRATEGY_READ_ONLY_VALIDITY && config->content_file == NULL &&
        config->seed == 0)
        return usage(
            "read_only_data_validity_test needs --storage-plain-content FILE, or the --seed "
            "of the run that wrote");
    if (parsed->blocks_per_io != 0 && parsed->io_given)
        return usage("give --io-size or --blocks-per-io, not both");
    if (parsed->blocks_per_io != 0)
        config->io_bytes = parsed->blocks_per_io * SL_BLOCK_BYTES;
    if (config->io_bytes % SL_BLOCK_BYTES != 0)
        return usage("--io-size must be a multiple of 4096, the volume's block");
    if (config->region_offset_bytes % SL_BLOCK_BYTES != 0 ||
        config->region_bytes % SL_BLOCK_BYTES != 0)
        return usage("--offset and --length must be multiples of 4096, the volume's block");
    config->random = parsed->pattern == 1;
    config->worker_count = sl_max(parsed->cpu_count, 1u);
    long online = sysconf(_SC_NPROCESSORS_CONF);
    for (unsigned i = 0; i < config->worker_count; i++) {
        config->cpus[i] = i < parsed->cpu_count ? (int)parsed->cpus[i] : -1;
        if (config->cpus[i] >= online) {
            fprintf(stderr, "sluice-initiator: --cpu %d: this machine has CPUs 0 to %ld\n",
                    config->cpus[i], online - 1);
            return 2;
        }
    }
    if (config->operation_limit == 0 && config->run_time_ns == 0 &&
        config->strategy < STRATEGY_READ_WRITE_VALIDITY)
        config->run_time_ns = 5 * SL_NS_PER_S;
    return 0;
}

static const struct sl_option table[] = {
    {"", 0, SL_OPTION_GROUP, .help = "What to do"},
    {"device", 'd', SL_OPTION_STRING, &c.device, .argument = "DEVICE",
     .help = "as the gateway's; the channel itself is local", .fallback = "tcp"},
    {"operation", 0, SL_OPTION_CHOICE, &p.operation, .choices = operations, .argument = "OP",
     .help = "short for a throughput test", .given = &p.operation_given, .fallback = "read"},
    {"execution-strategy", 0, SL_OPTION_CHOICE, &p.strategy, .choices = strategies,
     .argument = "NAME", .help = "which test", .given = &p.strategy_given},
    {"run-limit-operation-count", 0, SL_OPTION_INTEGER, &c.operation_limit, .least = 1,
     .most = UINT64_MAX, .argument = "N", .help = "end after so many operations, over all cores"},
    {"run-time", 0, SL_OPTION_DURATION, &c.run_time_ns, .least = SL_NS_PER_MS,
     .most = 86400 * SL_NS_PER_S * 30, .argument = "TIME", .help = "end after so long",
     .fallback = "5s for throughput tests without a limit"},
    {"storage-plain-content", 0, SL_OPTION_STRING, &c.content_file, .argument = "FILE",
     .help = "what the volume holds or shall hold (validity tests)",
     .fallback = "generated from --seed"},
    {"seed", 0, SL_OPTION_INTEGER, &c.seed, .least = 1, .most = UINT64_MAX, .argument = "N",
     .help = "of generated data and random offsets", .fallback = "1"},
    {"", 0, SL_OPTION_GROUP, .help = "How"},
    {"transaction-count", 0, SL_OPTION_INTEGER, &c.depth, .least = 1, .most = SL_COMCH_DEPTH_MAX,
     .argument = "N", .help = "operations that each core keeps outstanding", .fallback = "32"},
    {"cpu", 0, SL_OPTION_INTEGER, p.cpus, &p.cpu_count, WORKERS_MAX, 0, 1023, .argument = "CPU",
     .help = "a thread on it, with its own data queue", .fallback = "one thread, not pinned"},
    {"io-size", 0, SL_OPTION_SIZE, &c.io_bytes, .least = SL_BLOCK_BYTES, .most = 16 * SL_MIB,
     .argument = "SIZE", .help = "of one I/O", .fallback = "4 KiB", .given = &p.io_given},
    {"blocks-per-io", 0, SL_OPTION_INTEGER, &p.blocks_per_io, .least = 1, .most = 4096,
     .argument = "N", .help = "the same, in blocks of 4 KiB"},
    {"pattern", 0, SL_OPTION_CHOICE, &p.pattern, .choices = patterns, .argument = "P",
     .help = "of offsets", .fallback = "seq"},
    {"read-percent", 0, SL_OPTION_INTEGER, &c.read_percent, .least = 0, .most = 100,
     .argument = "N", .help = "mix of a throughput test", .given = &p.read_percent_given},
    {"volume", 0, SL_OPTION_STRING, &c.volume, .argument = "NAME",
     .help = "which volume of the gateway", .fallback = "its first"},
    {"offset", 0, SL_OPTION_SIZE, &c.region_offset_bytes, .least = 0, .most = UINT64_MAX / 2,
     .argument = "SIZE", .help = "where in the volume to begin", .fallback = "0"},
    {"length", 0, SL_OPTION_SIZE, &c.region_bytes, .least = SL_BLOCK_BYTES, .most = UINT64_MAX / 2,
     .argument = "SIZE", .help = "how much of it to use",
     .fallback = "the rest; with a file: its length"},
    {"command-channel-name", 'c', SL_OPTION_STRING, &c.channel_name, .argument = "NAME",
     .help = "of the gateway", .fallback = SL_COMCH_NAME_DEFAULT},
    {"control-timeout", 0, SL_OPTION_DURATION, &c.control_timeout_ns, .least = SL_NS_PER_MS,
     .most = 3600 * SL_NS_PER_S, .argument = "TIME", .help = "for the answer to a control message",
     .fallback = "15s"},
    {"poll", 0, SL_OPTION_FLAG, &c.poll, .help = "never sleep: least latency, a whole core each"},
    {"json", 0, SL_OPTION_FLAG, &c.json, .help = "print the result as one JSON object"},
    {"quiet", 'q', SL_OPTION_FLAG, &c.quiet, .help = "no progress line"},
    {.name = NULL},
};

int initiator_options_parse(struct initiator_config *config, int argc, char **argv)
{
    c = (struct initiator_config){
        .device = "tcp",
        .channel_name = SL_COMCH_NAME_DEFAULT,
        .volume = "",
        .depth = 32,
        .io_bytes = SL_BLOCK_BYTES,
        .control_timeout_ns = 15 * SL_NS_PER_S,
    };
    const struct sl_options options = {
        .program = "sluice-initiator",
        .summary = "load generator and data checker for sluice volumes",
        .examples = examples,
        .table = table,
    };
    int status = sl_options_parse(&options, argc, argv, NULL, NULL, 0, stdout, stderr);
    if (status != 0)
        return status < 0 ? 2 : 1;
    status = finish(&c, &p);
    if (c.seed == 0)
        c.seed = 1;
    *config = c;
    return status;
}
