/* Instruction-set levels. Kernels are compiled once a level and picked at run time.
 *
 * DD_ISA in the environment lowers the choice: DD_ISA=scalar|avx2|avx512|neon allows that level
 * and those below it; an unknown word allows scalar only (dd_isa_check() says so). The choice is a
 * pure function of the CPU and DD_ISA. */
#ifndef DD_BASE_CPU_H
#define DD_BASE_CPU_H

#include <stdbool.h>

#include "base/error.h"

typedef enum dd_isa {
    DD_ISA_SCALAR = 0,
    DD_ISA_AVX2,   /* AVX2 + FMA */
    DD_ISA_AVX512, /* F, BW, DQ, VL, VNNI */
    DD_ISA_NEON,
    DD_ISA_COUNT,
} dd_isa;

const char *dd_isa_name(dd_isa isa);
bool dd_isa_supported(dd_isa isa); /* by this CPU and operating system; DD_ISA does not matter */
dd_isa dd_isa_best(void);          /* the highest supported level that DD_ISA allows */
dd_status dd_isa_check(void);      /* DD_EVALUE when DD_ISA holds a word that is no level */
const char *dd_cpu_name(void);     /* "Intel(R) Xeon(R) ...", "" where unknown */

#endif
