/* The evaluator's C side: JSON grammar and numbers, id map, COCO files, orders, COCO and VOC
 * figures of sets small enough to work out by hand, the confusion matrix, failing allocations.
 * tests/test_evaluate.py compares the figures with pycocotools bit by bit. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "base/threads.h"
#include "evaluate/coco.h"
#include "evaluate/coco_file.h"
#include "evaluate/coco_order.h"
#include "evaluate/confusion.h"
#include "evaluate/id_map.h"
#include "evaluate/json.h"
#include "evaluate/mask.h"
#include "evaluate/voc.h"

#include "check.h"

/* ---- JSON ---------------------------------------------------------------------------------- */

static dd_status skip_text(const char *text, size_t length) {
    dd_json json;
    dd_json_begin(&json, text, length, "t");
    dd_status status = dd_json_skip(&json);
    if (status == DD_OK)
        status = dd_json_end(&json);
    dd_json_free(&json);
    return status;
}

static void check_json_good(void) {
    static const char *const good[] = {"0",
                                       "-0",
                                       "10",
                                       "1.5",
                                       "1e5",
                                       "1E+5",
                                       "1e-05",
                                       "-0.0e0",
                                       "\"\"",
                                       "\"a\"",
                                       "true",
                                       "false",
                                       "null",
                                       "[]",
                                       "{}",
                                       " [ ] ",
                                       "[1,2]",
                                       "{\"a\":1}",
                                       "{\"a\":{\"a\":1},\"b\":[{\"a\":1}]}",
                                       "\"\\u00e9\"",
                                       "\"\\ud83d\\ude00\"",
                                       "\"\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80\"",
                                       "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
                                       "\t\r\n 1 \n",
                                       "[[[[[[[[1]]]]]]]]",
                                       "{\"\":0}",
                                       "[\"\x7f\"]",
                                       "{\"a\":1,\"A\":2,\"\xc3\xa4\":3}",
                                       "1e999" /* only skipped, not converted */};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        CHECK(skip_text(good[i], strlen(good[i])) == DD_OK, "%s: %s", good[i], dd_message());
}

static const struct {
    const char *text, *message;
} bad[] = {
    {"", "the file ends"},
    {"  ", "the file ends"},
    {"\xef\xbb\xbf{}", "order mark"},
    {"{", "the file ends"},
    {"[", "the file ends"},
    {"[1,", "the file ends"},
    {"[1,]", "trailing comma"},
    {"{\"a\":1,}", "trailing"},
    {"[1 2]", "',' or ']'"},
    {"[,1]", "a value"},
    {"{1:2}", "double quotes"},
    {"{'a':1}", "double quotes"},
    {"{\"a\" 1}", "':'"},
    {"{\"a\":}", "a value"},
    {"{\"a\":1 \"b\":2}", "'}'"},
    {"{\"a\":1]", "'}'"},
    {"[1}", "']'"},
    {"[1]]", "end of the file"},
    {"{} {}", "end of the file"},
    {"nul", "null"},
    {"nulL", "null"},
    {"truE", "true or false"},
    {"fals", "true or false"},
    {"True", "a value"},
    {"NaN", "a value"},
    {"[Infinity]", "a value"},
    {"[-Infinity]", "a digit"},
    {"+1", "a value"},
    {"01", "leading zero"},
    {"-01", "leading zero"},
    {"-", "a digit"},
    {"1.", "a digit"},
    {"1.e5", "a digit"},
    {".5", "a value"},
    {"1e", "a digit"},
    {"1e+", "a digit"},
    {"0x10", "end of the file"},
    {"1.2.3", "end of the file"},
    {"\"", "within a string"},
    {"\"a", "within a string"},
    {"\"a\nb\"", "control"},
    {"\"\\x\"", "unknown escape"},
    {"\"\\", "unknown escape"},
    {"\"\\u12", "hexadecimal"},
    {"\"\\u12g4\"", "hexadecimal"},
    {"\"\\ud800\"", "surrogate"},
    {"\"\\udc00\"", "surrogate"},
    {"\"\\ud800\\u0041\"", "surrogate"},
    {"\"\xff\"", "UTF-8"},
    {"\"\xc0\xaf\"", "UTF-8"},
    {"\"\xe0\x80\x80\"", "UTF-8"},
    {"\"\xed\xa0\x80\"", "UTF-8"},
    {"\"\xf4\x90\x80\x80\"", "UTF-8"},
    {"\"\xe2\x82", "UTF-8"},
    {"{\"a\":1,\"a\":2}", "twice"},
    {"{\"a\":1,\"\\u0061\":2}", "twice"},
    {"[{\"x\":{\"b\":1,\"b\":2}}]", "twice"},
    {"//\n1", "a value"},
    {"[1,/**/2]", "a value"},
    {"\f1", "a value"},
};

static void check_json_bad(void) {
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        dd_status status = skip_text(bad[i].text, strlen(bad[i].text));
        CHECK(status == DD_EFORMAT && strstr(dd_message(), bad[i].message), "%s: %s", bad[i].text,
              dd_message());
    }
    CHECK(skip_text("1\0", 2) == DD_EFORMAT, "NUL behind a value");
    CHECK(skip_text("\"a\0b\"", 5) == DD_EFORMAT && strstr(dd_message(), "control"), "NUL inside");
    char deep[2 * DD_JSON_DEPTH + 3];
    memset(deep, '[', DD_JSON_DEPTH + 1);
    memset(deep + DD_JSON_DEPTH + 1, ']', DD_JSON_DEPTH + 1);
    deep[2 * DD_JSON_DEPTH + 2] = '\0';
    CHECK(skip_text(deep, 2 * DD_JSON_DEPTH + 2) == DD_EFORMAT, "65 levels");
    deep[2 * DD_JSON_DEPTH + 1] = '\0';
    CHECK(skip_text(deep + 1, 2 * DD_JSON_DEPTH) == DD_OK, "64 levels: %s", dd_message());
}

/* An object of many keys, one of them twice: found at its end by sorting. */
static void check_json_many_keys(void) {
    char text[8192];
    for (int twice = 0; twice < 2; twice++) {
        size_t n = (size_t)snprintf(text, sizeof text, "{");
        for (int i = 0; i < 400; i++)
            n += (size_t)snprintf(text + n, sizeof text - n, "\n\"k%d\":%d,", i, i);
        n += (size_t)snprintf(text + n, sizeof text - n, "\"%s\":0}", twice ? "\\u006b7" : "last");
        dd_status status = skip_text(text, n);
        CHECK(status == (twice ? DD_EFORMAT : DD_OK), "%s", dd_message());
        CHECK(!twice || strstr(dd_message(), "t:401: "), "%s", dd_message());
    }
}

static void check_json_cursor(void) {
    static const char text[] = "{\"a\\u0062\": [1, 2.5, \"\\u00e9\\n\"],\n\"n\": null, \"t\": true,"
                               "\"skip\": {\"x\": [1, {}]}, \"i\": 9007199254740993}";
    dd_json json;
    dd_json_text key, string;
    bool more, flag = false;
    double number = 0;
    int64_t whole = 0;
    char out[16];
    dd_json_begin(&json, text, sizeof text - 1, "t");
    CHECK(dd_json_peek(&json) == DD_JSON_OBJECT && dd_json_object(&json) == DD_OK, "object");
    CHECK(dd_json_key(&json, &key, &more) == DD_OK && more && dd_json_is(&key, "ab"), "key");
    CHECK(!dd_json_is(&key, "a") && !dd_json_is(&key, "abc"), "other words");
    CHECK(dd_json_array(&json) == DD_OK && dd_json_item(&json, &more) == DD_OK && more, "array");
    CHECK(dd_json_int(&json, &whole) == DD_OK && whole == 1, "1");
    CHECK(dd_json_item(&json, &more) == DD_OK && more, "item");
    CHECK(dd_json_int(&json, &whole) == DD_EVALUE, "2.5 is no int");
    CHECK(dd_json_number(&json, &number) == DD_OK && number == 2.5, "but a number");
    CHECK(dd_json_item(&json, &more) == DD_OK && dd_json_string(&json, &string) == DD_OK, "é");
    CHECK(string.escaped && dd_json_unescape(&string, out) == 3 && !memcmp(out, "\xc3\xa9\n", 3),
          "unescaped");
    CHECK(dd_json_item(&json, &more) == DD_OK && !more && json.depth == 1, "end of the array");
    CHECK(dd_json_key(&json, &key, &more) == DD_OK && dd_json_null(&json) == DD_OK, "null");
    CHECK(dd_json_line(&json) == 2, "line 2, not %zu", dd_json_line(&json));
    CHECK(dd_json_key(&json, &key, &more) == DD_OK && dd_json_bool(&json, &flag) == DD_OK && flag,
          "true");
    CHECK(dd_json_key(&json, &key, &more) == DD_OK && dd_json_skip(&json) == DD_OK, "skip");
    CHECK(dd_json_key(&json, &key, &more) == DD_OK && dd_json_int(&json, &whole) == DD_EVALUE,
          "beyond 2^53");
    CHECK(dd_json_skip(&json) == DD_OK && dd_json_key(&json, &key, &more) == DD_OK && !more,
          "the end");
    CHECK(dd_json_end(&json) == DD_OK, "%s", dd_message());
    CHECK(dd_json_object(&json) == DD_EFORMAT, "nothing is left");
    dd_json_free(&json);
    dd_json_begin(&json, "\"x\"", 3, "t");
    CHECK(dd_json_number(&json, &number) == DD_EFORMAT &&
              strstr(dd_message(), "a string came, a number was needed"),
          "%s", dd_message());
    CHECK(number == 2.5, "untouched");
    dd_json_free(&json);
}

static void check_decimals(void) {
    static const char *const hard[] = {"0",
                                       "-0",
                                       "1",
                                       "123456789012345678",
                                       "9007199254740993",
                                       "9007199254740991e22",
                                       "0.1",
                                       "0.3",
                                       "1e23",
                                       "8.5e22",
                                       "1e22",
                                       "1e-22",
                                       "123456789.123456789",
                                       "5e-324",
                                       "2.2250738585072011e-308",
                                       "1.7976931348623157e308",
                                       "0.000000000000000000000000001",
                                       "18446744073709551615",
                                       "9999999999999999999e8",
                                       "1e-27",
                                       "7450580596923828125e-27",
                                       "3.14159265358979323846264338327950288",
                                       "1e999",
                                       "1e-999",
                                       "4503599627370496.5",
                                       "4503599627370497.5",
                                       "9223372036854775807e-19",
                                       "0.00000000000000000000000000000000001"};
    for (size_t i = 0; i < sizeof hard / sizeof hard[0]; i++) {
        double expected = strtod(hard[i], NULL), got = dd_json_decimal(hard[i], strlen(hard[i]));
        CHECK(!memcmp(&expected, &got, sizeof got), "%s: %.17g", hard[i], got);
    }
    dd_stream s;
    dd_stream_init(&s, 1, 0, 0, DD_FOR_TEST);
    for (int i = 0; i < 50000; i++) {
        char text[64];
        uint64_t w = (uint64_t)dd_stream_u32(&s) << 32 | dd_stream_u32(&s);
        w >>= dd_stream_below(&s, 64);
        int q = (int)dd_stream_below(&s, 70) - 35;
        int n = snprintf(text, sizeof text, "%llu.%02ue%d", (unsigned long long)w,
                         dd_stream_below(&s, 100), q);
        double expected = strtod(text, NULL), got = dd_json_decimal(text, (size_t)n);
        CHECK(!memcmp(&expected, &got, sizeof got), "%s: %.17g, not %.17g", text, got, expected);
    }
}

static void check_file_read(void) {
    char *text = NULL;
    size_t length = 0;
    CHECK(dd_file_read("/nowhere/x.json", &text, &length) == DD_EIO && !text, "missing");
    CHECK(strstr(dd_message(), "/nowhere/x.json"), "%s", dd_message());
    CHECK(dd_file_read("/", &text, &length) == DD_EIO && !text, "a folder");
    CHECK(dd_file_read("/dev/null", &text, &length) == DD_OK && length == 0 && text[0] == 0, "%s",
          dd_message());
    dd_free(text);
}

/* ---- ids and orders ------------------------------------------------------------------------ */

static void check_id_map(void) {
    dd_id_map map = {0};
    bool added;
    CHECK(dd_id_map_find(&map, 5) == -1, "empty");
    for (int64_t i = 0; i < 5000; i++)
        CHECK(dd_id_map_add(&map, i * 4294967296 - 7, i, &added) == DD_OK && added, "%d", (int)i);
    CHECK(dd_id_map_add(&map, -7, 9, &added) == DD_OK && !added, "twice");
    for (int64_t i = 0; i < 5000; i++)
        CHECK(dd_id_map_find(&map, i * 4294967296 - 7) == i, "%d", (int)i);
    CHECK(dd_id_map_find(&map, 1) == -1, "absent");
    dd_id_map_free(&map);
}

static void check_sort_scores(void) {
    static const double score[] = {.5, 1, -0.0, 0, -1, .5, 1e-300, INFINITY, -INFINITY, .5};
    static const uint32_t expected[] = {7, 1, 0, 5, 9, 6, 2, 3, 4, 8};
    uint32_t order[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    CHECK(dd_sort_scores(score, order, 10) == DD_OK, "%s", dd_message());
    CHECK(!memcmp(order, expected, sizeof order), "stable and descending");
    CHECK(dd_sort_scores(score, order, 0) == DD_OK, "nothing");
}

/* ---- COCO files ---------------------------------------------------------------------------- */

static const char TRUTH[] =
    "{\"annotations\": [\n"
    "{\"id\": 1, \"image_id\": 10, \"category_id\": 7, \"bbox\": [0, 0, 10, 10], \"area\": 99,"
    " \"segmentation\": [[1, 2]]},\n"
    "{\"id\": 2, \"image_id\": 11, \"category_id\": 3, \"bbox\": [1.5, 2, 3, 4], \"iscrowd\": 1},\n"
    "{\"id\": 2, \"image_id\": 10, \"category_id\": 3, \"bbox\": [0, 0, 1, 1]},\n"
    "{\"id\": 3, \"image_id\": 12, \"category_id\": 3, \"bbox\": [0, 0, 1, 1]},\n"
    "{\"id\": 4, \"image_id\": 10, \"category_id\": 4, \"bbox\": [0, 0, 1, 1]},\n"
    "{\"id\": 5, \"image_id\": 10, \"category_id\": 3, \"bbox\": [0, 0, 1]}],\n"
    "\"images\": [{\"id\": 10, \"width\": 64, \"height\": 48, \"file_name\": \"a\\u00fc.jpg\"},\n"
    "{\"id\": 11, \"file_name\": \"b.jpg\"}, {\"id\": 10}],\n"
    "\"categories\": [{\"id\": 7, \"name\": \"disk\"}, {\"id\": 3, \"name\": \"star\"}]}";

static void check_coco_file(void) {
    dd_coco_file f;
    CHECK(dd_coco_read(TRUTH, sizeof TRUTH - 1, "t", false, &f) == DD_OK, "%s", dd_message());
    CHECK(f.n_images == 2 && f.n_categories == 2 && f.n_annotations == 2, "%zu %zu %zu", f.n_images,
          f.n_categories, f.n_annotations);
    CHECK(!strcmp(f.names + f.images[0].name, "a\xc3\xbc.jpg"), "name");
    CHECK(f.images[0].width == 64 && f.images[1].height == 0, "sizes");
    const dd_coco_annotation *a = f.annotations;
    CHECK(a[0].image == 0 && a[0].category == 0 && a[0].area == 99 && !a[0].crowd, "first");
    CHECK(a[1].image == 1 && a[1].category == 1 && isnan(a[1].area) && a[1].crowd, "second");
    CHECK(a[0].segmentation_bytes == 8 && !memcmp(TRUTH + a[0].segmentation, "[[1, 2]]", 8),
          "segmentation");
    CHECK(f.reasons[DD_COCO_ANNOTATIONS][DD_COCO_DUPLICATE_ID] == 1, "duplicate");
    CHECK(f.reasons[DD_COCO_ANNOTATIONS][DD_COCO_UNKNOWN_IMAGE] == 1, "image");
    CHECK(f.reasons[DD_COCO_ANNOTATIONS][DD_COCO_UNKNOWN_CATEGORY] == 1, "category");
    CHECK(f.reasons[DD_COCO_ANNOTATIONS][DD_COCO_BAD_BOX] == 1, "box");
    CHECK(f.reasons[DD_COCO_IMAGES][DD_COCO_MISSING] == 5, "sizes and a name");
    bool found = false;
    for (size_t i = 0; i < f.n_defects; i++)
        found |= f.defects[i].reason == DD_COCO_UNKNOWN_IMAGE && f.defects[i].line == 5 &&
                 f.defects[i].index == 3 && !strcmp(f.defects[i].value, "12");
    CHECK(found, "the defect has its line and value");
    dd_coco_file_free(&f);
    static const char results[] = "[{\"image_id\": 1, \"category_id\": 2, \"bbox\": [1, 2, 3, 4], "
                                  "\"score\": 0.25}, {\"score\": 1}]";
    CHECK(dd_coco_read(results, sizeof results - 1, "t", true, &f) == DD_OK, "%s", dd_message());
    CHECK(f.n_annotations == 1 && f.annotations[0].score == .25 && f.n_defects == 3, "results");
    dd_coco_file_free(&f);
    CHECK(dd_coco_read("[]", 2, "t", false, &f) == DD_EFORMAT, "results are no ground truth");
}

/* More defects than are kept: all of them are counted. */
static void check_coco_defect_flood(void) {
    size_t n = 0, records = DD_COCO_DEFECTS_KEPT + 100;
    char *text;
    CHECK(dd_alloc(records * 4 + 3, &text) == DD_OK, "%s", dd_message());
    text[n++] = '[';
    for (size_t i = 0; i < records; i++)
        n += (size_t)snprintf(text + n, 5, i ? ",{}" : "{}");
    memcpy(text + n, "]", 2);
    dd_coco_file f;
    CHECK(dd_coco_read(text, n + 1, "t", true, &f) == DD_OK, "%s", dd_message());
    CHECK(f.n_defects == DD_COCO_DEFECTS_KEPT, "%zu kept", f.n_defects);
    CHECK(f.reasons[DD_COCO_ANNOTATIONS][DD_COCO_MISSING] == (int64_t)records * 4, "counted");
    dd_coco_file_free(&f);
    dd_free(text);
}

/* ---- figures ------------------------------------------------------------------------------- */

/* Two images, two classes. Class 0: objects A (image 0) and B (image 1); detections best first: a
 * miss in image 0, then A and B exactly. Class 1: a crowd with two detections in it, no object. */
static const int32_t OBJECT_IMAGE[] = {0, 1, 0}, OBJECT_CLASS[] = {0, 0, 1};
static const double OBJECT_BOX[] = {0, 0, 10, 10, 5, 5, 50, 50, 100, 100, 100, 100};
static const double OBJECT_AREA[] = {100, 2500, 10000};
static const uint8_t OBJECT_CROWD[] = {0, 0, 1};
static const int32_t FOUND_IMAGE[] = {0, 0, 1, 0, 0}, FOUND_CLASS[] = {0, 0, 0, 1, 1};
static const double FOUND_BOX[] = {0,  0,  10,  10,  200, 200, 10,  10,  5,  5,
                                   50, 50, 110, 110, 10,  10,  120, 120, 10, 10};
static const double FOUND_SCORE[] = {.8, .9, .7, .6, .5};

static dd_coco_input small_set(void) {
    return (dd_coco_input){.n_images = 2,
                           .n_classes = 2,
                           .n_objects = 3,
                           .object_image = OBJECT_IMAGE,
                           .object_class = OBJECT_CLASS,
                           .object_box = OBJECT_BOX,
                           .object_area = OBJECT_AREA,
                           .object_crowd = OBJECT_CROWD,
                           .n_detections = 5,
                           .detection_image = FOUND_IMAGE,
                           .detection_class = FOUND_CLASS,
                           .detection_box = FOUND_BOX,
                           .detection_score = FOUND_SCORE};
}

static void check_coco_by_hand(void) {
    dd_coco_defaults storage;
    dd_coco_params p = dd_coco_params_default(&storage);
    dd_coco_input in = small_set();
    static double precision[10 * 101 * 2 * 4 * 3], recall[10 * 2 * 4 * 3],
        scores[10 * 101 * 2 * 4 * 3], stats[12];
    static const int areas[4] = {0, 1, 2, 3};
    CHECK(dd_coco_evaluate(&in, &p, precision, recall, scores) == DD_OK, "%s", dd_message());
    CHECK(dd_coco_stats(&p, 2, areas, precision, recall, stats) == DD_OK, "%s", dd_message());
    /* Order miss, A, B: precision 0, 1/2, 2/3; made monotone 2/3 all over. Per size the miss (area
     * 100) counts for small only. */
    static const double expected[12] = {2. / 3, 2. / 3, 2. / 3, .5, 1, -1, .5, 1, 1, 1, 1, -1};
    for (int i = 0; i < 12; i++)
        CHECK(fabs(stats[i] - expected[i]) < 1e-12, "stats[%d] is %.17g", i, stats[i]);
    /* (t, r, k, a, m): the score at recall 0 is A's, the first of the best precision on; at 1 B's.
     */
    CHECK(scores[(0 * 2 + 0) * 12 + 2] == .9 && scores[(100 * 2 + 0) * 12 + 2] == .7, "scores");
    CHECK(recall[(0 * 2 + 1) * 12] == -1, "no object of class 1 counts");
    p.use_classes = false;
    CHECK(dd_coco_evaluate(&in, &p, precision, recall, scores) == DD_OK, "%s", dd_message());
    CHECK(fabs(precision[2] - 2. / 3) < 1e-12 && recall[2] == 1, "the crowd's are ignored");
}

static void check_coco_bad_input(void) {
    dd_coco_defaults storage;
    double one[64];
    static const double nan_score[] = {NAN, 0, 0, 0, 0}, area[2] = {0, 1e10}, level = .5;
    static const int32_t wrong[] = {0, 0, 2, 0, 0};
    static const int64_t max_det[] = {3, 2};
    dd_coco_params p = dd_coco_params_default(&storage);
    p = (dd_coco_params){1, 1, 1, 1, &level, &level, area, storage.max_det, true};
    dd_coco_input in = small_set();
    in.detection_score = nan_score;
    CHECK(dd_coco_evaluate(&in, &p, one, one, one) == DD_EVALUE, "NaN");
    in = small_set();
    in.detection_image = wrong;
    CHECK(dd_coco_evaluate(&in, &p, one, one, one) == DD_EVALUE, "image 2 of 2");
    CHECK(dd_confusion_count(&in, 0, .5, NULL) == DD_EVALUE, "confusion");
    in = small_set();
    p.max_det = max_det;
    p.n_max_det = 2;
    CHECK(dd_coco_evaluate(&in, &p, one, one, one) == DD_EVALUE, "descending max_det");
    p.n_max_det = 0;
    CHECK(dd_coco_evaluate(&in, &p, one, one, one) == DD_EVALUE, "no max_det");
}

static void check_voc_by_hand(void) {
    /* Corners, inclusive: 10 x 10 at (1, 1); its neighbour shares 5 columns: overlap 50/150. */
    static const int32_t zeros[] = {0, 0, 0, 0};
    static const double objects[] = {1, 1, 10, 10, 21, 1, 30, 10},
                        found[] = {1, 1, 10, 10, 6, 1, 15, 10, 1, 1, 10, 10, 21, 1, 30, 10};
    static const uint8_t difficult[] = {0, 1};
    static const double scores[] = {.5, .9, .4, .3};
    dd_coco_input in = {.n_images = 1,
                        .n_classes = 1,
                        .n_objects = 2,
                        .object_image = zeros,
                        .object_class = zeros,
                        .object_box = objects,
                        .object_crowd = difficult,
                        .n_detections = 4,
                        .detection_image = zeros,
                        .detection_class = zeros,
                        .detection_box = found,
                        .detection_score = scores};
    double ap;
    int64_t positives;
    uint8_t fates[4];
    uint32_t order[4];
    dd_voc_result result = {&ap, &positives, fates, order};
    CHECK(dd_voc_evaluate(&in, 1. / 3, false, &result) == DD_OK, "%s", dd_message());
    static const uint8_t loose[] = {DD_VOC_FALSE, DD_VOC_HIT, DD_VOC_FALSE, DD_VOC_NOTHING};
    CHECK(!memcmp(fates, loose, 4) && positives == 1 && ap == 1, "ap %g", ap);
    CHECK(dd_voc_evaluate(&in, .5, false, &result) == DD_OK, "%s", dd_message());
    static const uint8_t strict[] = {DD_VOC_HIT, DD_VOC_FALSE, DD_VOC_FALSE, DD_VOC_NOTHING};
    CHECK(!memcmp(fates, strict, 4) && ap == .5, "ap %g", ap);
    CHECK(order[0] == 1 && order[3] == 3, "order");
    CHECK(dd_voc_evaluate(&in, .5, true, &result) == DD_OK && fabs(ap - .5) < 1e-15, "%g", ap);
}

static void check_confusion_by_hand(void) {
    dd_coco_input in = small_set();
    int64_t counts[9] = {0};
    CHECK(dd_confusion_count(&in, .55, .5, counts) == DD_OK, "%s", dd_message());
    static const int64_t expected[9] = {2, 0, 0, 0, 0, 0, 1, 0, 0}; /* crowds are left out */
    CHECK(!memcmp(counts, expected, sizeof counts), "%d %d", (int)counts[0], (int)counts[6]);
    CHECK(dd_confusion_count(&in, .85, .5, counts) == DD_OK, "%s", dd_message());
    CHECK(counts[6] == 2 && counts[2] == 2, "added: one false alarm and both objects missed");
}

/* The same bits for 1 and 3 threads on a random set, and no leak when an allocation fails. */
static void check_coco_threads_and_failures(void) {
    enum { N = 600, D = 1500, FIGURES = 10 * 101 * 5 * 4 * 3 };
    static int32_t image[N + D], class[N + D];
    static double box[4 * (N + D)], area[N], score[D], precision[2][FIGURES], recall[FIGURES],
        scores[2][FIGURES];
    static uint8_t crowd[N];
    dd_stream s;
    dd_stream_init(&s, 5, 0, 0, DD_FOR_TEST);
    for (int i = 0; i < N + D; i++) {
        image[i] = (int32_t)dd_stream_below(&s, 40);
        class[i] = (int32_t)dd_stream_below(&s, 5);
        for (int k = 0; k < 4; k++)
            box[4 * i + k] = dd_stream_uniform(&s) * 60;
        if (i < N)
            area[i] = box[4 * i + 2] * box[4 * i + 3], crowd[i] = dd_stream_below(&s, 10) == 0;
        else
            score[i - N] = dd_stream_below(&s, 50) / 50.;
    }
    dd_coco_input in = {.n_images = 40,
                        .n_classes = 5,
                        .n_objects = N,
                        .object_image = image,
                        .object_class = class,
                        .object_box = box,
                        .object_area = area,
                        .object_crowd = crowd,
                        .n_detections = D,
                        .detection_image = image + N,
                        .detection_class = class + N,
                        .detection_box = box + 4 * N,
                        .detection_score = score};
    dd_coco_defaults storage;
    dd_coco_params p = dd_coco_params_default(&storage);
    int before = dd_threads();
    for (int run = 0; run < 2; run++) {
        CHECK(dd_threads_set(run ? 3 : 1) == DD_OK, "%s", dd_message());
        CHECK(dd_coco_evaluate(&in, &p, precision[run], recall, scores[run]) == DD_OK, "%s",
              dd_message());
    }
    CHECK(!memcmp(precision[0], precision[1], sizeof precision[0]), "precision");
    CHECK(!memcmp(scores[0], scores[1], sizeof scores[0]), "scores");
    CHECK(dd_threads_set(before) == DD_OK, "%s", dd_message());
    uint64_t live = dd_alloc_live();
    int failed = 0;
    for (uint64_t n = 1; n < 100; n++) {
        int64_t counts[36] = {0};
        dd_coco_file file = {0};
        dd_alloc_fail_at(n);
        dd_status status = dd_coco_evaluate(&in, &p, precision[0], recall, scores[0]);
        status = status ? status : dd_confusion_count(&in, 0, .5, counts);
        status = status ? status : dd_coco_read(TRUTH, sizeof TRUTH - 1, "t", false, &file);
        dd_alloc_fail_at(0);
        dd_coco_file_free(&file);
        CHECK(dd_alloc_live() == live, "allocation %d leaks", (int)n);
        if (status == DD_OK)
            break;
        CHECK(status == DD_ENOMEM, "%s", dd_message());
        failed++;
    }
    CHECK(failed > 20, "only %d allocations", failed);
}

/* ---- masks and the fast lane ---------------------------------------------------------------- */

static void check_masks(void) {
    static const double square[] = {1, 1, 4, 1, 4, 3, 1, 3};
    dd_runs runs = {0}, copy = {0};
    CHECK(dd_mask_from_polygon(square, 4, 5, 6, &runs) == DD_OK, "%s", dd_message());
    dd_rle rle = {5, 6, runs.n, runs.counts};
    double box[4];
    dd_mask_box(&rle, box);
    CHECK(dd_mask_area(&rle) == 6 && box[0] == 1 && box[1] == 1 && box[2] == 3 && box[3] == 2,
          "a rectangle: area %llu", (unsigned long long)dd_mask_area(&rle));
    char *text = malloc(7 * rle.n), *exact;
    size_t length = dd_mask_to_text(&rle, text);
    exact = malloc(length); /* so that a sanitizer sees a byte too far */
    memcpy(exact, text, length);
    CHECK(dd_mask_from_text(exact, length, &copy) == DD_OK && copy.n == rle.n &&
              !memcmp(copy.counts, rle.counts, rle.n * sizeof *rle.counts),
          "text and back");
    uint8_t pixels[30];
    CHECK(dd_mask_to_pixels(&rle, pixels) == DD_OK && pixels[6] == 1 && pixels[5] == 0, "pixels");
    copy.n = 0;
    CHECK(dd_mask_from_pixels(pixels, 5, 6, &copy) == DD_OK && copy.n == rle.n, "and back");
    CHECK(dd_mask_from_text("~~", 2, &copy) == DD_EFORMAT, "no code");
    CHECK(dd_mask_from_text("PPPPPPPPPPPP", 12, &copy) == DD_EFORMAT, "no end");
    static const double far[] = {0, 0, 1e300, 0, 0, 5};
    CHECK(dd_mask_from_polygon(far, 3, 5, 5, &copy) == DD_EVALUE, "too far");
    free(text);
    free(exact);
    dd_runs_free(&runs);
    dd_runs_free(&copy);
}

/* A list that is long enough for the lane, in a block without a byte to spare, cut off at every
 * place near its end: what the strict reader refuses is refused, whole ones are read whole. */
static void check_lane(void) {
    enum { N = 600 };
    char *text = malloc(N * 100 + 8);
    size_t n = 0, good = 0;
    text[n++] = '[';
    for (int i = 0; i < N; i++)
        n += (size_t)sprintf(text + n,
                             "%s{\"image_id\": %d, \"category_id\": 3, \"bbox\": [%d.25, 2, 3.5, "
                             "1e-3], \"score\": 0.%d}",
                             i ? ", " : "", i, i * 7, i + 1);
    text[n++] = ']';
    for (size_t cut = 0; cut < 300; cut++) {
        char *exact = malloc(n - cut + 1);
        memcpy(exact, text, n - cut);
        exact[n - cut] = '\0';
        dd_coco_file f;
        dd_status status = dd_coco_read(exact, n - cut, "t", true, &f);
        good += status == DD_OK;
        if (status == DD_OK) {
            CHECK(f.n_annotations == N && f.annotations[599].box[0] == 599 * 7 + .25 &&
                      f.annotations[599].box[3] == 1e-3 && f.annotations[599].score == .6 &&
                      f.annotations[599].index == 599 && f.annotations[599].line == 1,
                  "the last record");
            dd_coco_file_free(&f);
        }
        free(exact);
    }
    CHECK(good == 1, "%zu of the cut texts were read", good);
    free(text);
}

int main(void) {
    check_masks();
    check_lane();
    check_json_good();
    check_json_bad();
    check_json_many_keys();
    check_json_cursor();
    check_decimals();
    check_file_read();
    check_id_map();
    check_sort_scores();
    check_coco_file();
    check_coco_defect_flood();
    check_coco_by_hand();
    check_coco_bad_input();
    check_voc_by_hand();
    check_confusion_by_hand();
    check_coco_threads_and_failures();
    return check_done("evaluate");
}
