/* Passing over lists of numbers, which is what most bytes of a COCO file are (polygons). */
#ifndef DD_EVALUATE_NUMBER_LIST_H
#define DD_EVALUATE_NUMBER_LIST_H

/* The place behind the list at p: numbers, or lists of numbers, as json.dump writes them (a blank
 * after a comma or none; no exponents). NULL where it has another form, which says nothing against
 * it: the strict reader is to look then. Reads no further than `limit`, behind which 16 more bytes
 * must be readable. */
const char *dd_number_list_end(const char *p, const char *limit);

#endif
