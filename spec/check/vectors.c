/*
 * Reads every golden vector with the code that rpcgen makes of tidegate.x, writes it again, and
 * compares. `cargo xtask vectors` builds and runs it; by hand, in this folder:
 *
 *   rpcgen -h ../tidegate.x > tidegate.h && rpcgen -c ../tidegate.x > tidegate_xdr.c
 *   cc -I. -I/usr/include/tirpc vectors.c tidegate_xdr.c -ltirpc -o vectors
 *   ./vectors ../vectors/[A-Z]*.json
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tidegate.h"

/* No message is larger than a frame. */
enum { MOST = 65536, LINE = 1 << 22 };

struct subject {
    const char *name;
    xdrproc_t proc;
    size_t size;
};

#define SUBJECT(type) { #type, (xdrproc_t)xdr_##type, sizeof(type) }

static const struct subject SUBJECTS[] = {
#include "subjects.h"
};

static char line[LINE], input[MOST], output[MOST];

/* What stands between the quotes behind a key; NULL if the line has no such key. */
static char *text_of(const char *key, size_t *length) {
    char *start = strstr(line, key);
    if (start == NULL) return NULL;
    start += strlen(key);
    char *end = strchr(start, '"');
    if (end == NULL) return NULL;
    *length = (size_t)(end - start);
    return start;
}

static const struct subject *subject_of(const char *name, size_t length) {
    for (size_t i = 0; i < sizeof SUBJECTS / sizeof *SUBJECTS; i++)
        if (strlen(SUBJECTS[i].name) == length && memcmp(SUBJECTS[i].name, name, length) == 0)
            return &SUBJECTS[i];
    return NULL;
}

/* Decodes, encodes and compares one case: NULL, or what went wrong. */
static const char *check(const struct subject *subject, const char *hex, size_t digits) {
    size_t size = digits / 2;
    if (digits % 2 != 0 || size > MOST) return "is no frame";
    for (size_t i = 0; i < size; i++) {
        unsigned byte;
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1) return "is not hexadecimal";
        input[i] = (char)byte;
    }
    void *value = calloc(1, subject->size);
    const char *wrong = NULL;
    XDR decode, encode;
    xdrmem_create(&decode, input, (u_int)size, XDR_DECODE);
    xdrmem_create(&encode, output, MOST, XDR_ENCODE);
    if (value == NULL)
        wrong = "needs more memory";
    else if (!subject->proc(&decode, value))
        wrong = "is not read";
    else if (xdr_getpos(&decode) != size)
        wrong = "is not read to its end";
    else if (!subject->proc(&encode, value))
        wrong = "is not written";
    else if (xdr_getpos(&encode) != size || memcmp(input, output, size) != 0)
        wrong = "is written differently";
    if (value != NULL) xdr_free(subject->proc, value);
    free(value);
    return wrong;
}

int main(int count, char **files) {
    size_t cases = 0;
    for (int i = 1; i < count; i++) {
        FILE *file = fopen(files[i], "r");
        const struct subject *subject = NULL;
        for (size_t number = 1; file != NULL && fgets(line, LINE, file) != NULL; number++) {
            size_t length;
            const char *text = text_of("\"type\":\"", &length);
            if (text != NULL) subject = subject_of(text, length);
            text = text_of("\"hex\":\"", &length);
            if (text == NULL) continue;
            const char *wrong = subject == NULL ? "has no known type" : check(subject, text, length);
            if (wrong != NULL) {
                fprintf(stderr, "%s:%zu: %s\n", files[i], number, wrong);
                return 1;
            }
            cases++;
        }
        if (file == NULL) {
            perror(files[i]);
            return 1;
        }
        fclose(file);
    }
    printf("%zu vectors are read and written alike by C\n", cases);
    return cases == 0;
}
